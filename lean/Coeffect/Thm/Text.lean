import Coeffect.Thm.Decision

/-!
# Cutting and joining

`split` undoes `join`, `lines` undoes `unlines`, and a text that ends early has fewer lines.
-/
namespace Coeffect

/-- Whether a byte does not occur. -/
def lacks (separator : Byte) (bytes : Bytes) : Bool := bytes.all fun byte => !(byte == separator)

theorem lacks_append {separator : Byte} {a b : Bytes} (ha : lacks separator a = true) (hb : lacks separator b = true) :
    lacks separator (a ++ b) = true :=
  (all_append a b).trans (and_iff.2 ⟨ha, hb⟩)

/-- What consists of bytes of a class that the separator is not in lacks the separator. -/
theorem lacks_of_class {separator : Byte} {bytes : Bytes} (member : Byte → Bool) (out : member separator = false)
    (h : bytes.all member = true) : lacks separator bytes = true :=
  all_iff.2 fun byte hb => not_iff.2 (eq_false_of_ne fun e => by
    have hm := all_iff.1 h byte hb
    rw [beq_iff.1 e, out] at hm
    cases hm)

theorem cut_at {separator byte : Byte} {field : Bytes} {fields : List Bytes} (h : (byte == separator) = true) :
    cut separator byte (field :: fields) = [] :: field :: fields := bif_true h

theorem cut_within {separator byte : Byte} {field : Bytes} {fields : List Bytes} (h : (byte == separator) = false) :
    cut separator byte (field :: fields) = (byte :: field) :: fields := bif_false h

theorem split_nil (separator : Byte) : split separator [] = [[]] := rfl

theorem split_cons (separator byte : Byte) (bytes : Bytes) :
    split separator (byte :: bytes) = cut separator byte (split separator bytes) := by
  rw [split, splitReversed, reverse_cons, foldl_append]
  rfl

/-- There is always a first field. -/
theorem split_is_cons (separator : Byte) : ∀ bytes : Bytes, ∃ field fields, split separator bytes = field :: fields
  | [] => ⟨[], [], rfl⟩
  | byte :: bytes => by
    have ⟨field, fields, h⟩ := split_is_cons separator bytes
    rw [split_cons, h]
    cases hb : byte == separator with
    | true => exact ⟨[], field :: fields, cut_at hb⟩
    | false => exact ⟨byte :: field, fields, cut_within hb⟩

theorem split_append {separator : Byte} {rest : Bytes} {field : Bytes} {fields : List Bytes}
    (h : split separator rest = field :: fields) :
    ∀ {front : Bytes}, lacks separator front = true → split separator (front ++ rest) = (front ++ field) :: fields
  | [], _ => h
  | byte :: front, hl => by
    have hl := and_iff.1 hl
    show split separator (byte :: (front ++ rest)) = _
    rw [split_cons, split_append h hl.2, cut_within (not_iff.1 hl.1)]
    rfl

theorem split_field {separator : Byte} {field : Bytes} (h : lacks separator field = true) :
    split separator field = [field] := by
  have hs := split_append (split_nil separator) h
  rw [append_nil] at hs
  exact hs

theorem split_separator (separator : Byte) (rest : Bytes) :
    split separator (separator :: rest) = [] :: split separator rest := by
  have ⟨field, fields, h⟩ := split_is_cons separator rest
  rw [split_cons, h, cut_at (beq_self separator)]

/-- `split` undoes `join`. -/
theorem split_join {separator : Byte} : ∀ {field : Bytes} {fields : List Bytes},
    (field :: fields).all (lacks separator) = true → split separator (join separator (field :: fields)) = field :: fields
  | field, [], h => split_field (and_iff.1 h).1
  | field, next :: fields, h => by
    have h := and_iff.1 h
    show split separator (field ++ separator :: join separator (next :: fields)) = _
    rw [split_append (split_separator separator _) h.1, append_nil, split_join h.2]

theorem cut_append {separator byte : Byte} {field : Bytes} {fields more : List Bytes} :
    cut separator byte (field :: fields ++ more) = cut separator byte (field :: fields) ++ more := by
  show cut separator byte (field :: (fields ++ more)) = _
  cases hb : byte == separator with
  | true => rw [cut_at hb, cut_at hb]; rfl
  | false => rw [cut_within hb, cut_within hb]; rfl

/-- Two texts with a separator between them split into the fields of the one and of the other. -/
theorem split_between (separator : Byte) (back : Bytes) : ∀ front : Bytes,
    split separator (front ++ separator :: back) = split separator front ++ split separator back
  | [] => split_separator separator back
  | byte :: front => by
    have ⟨field, fields, h⟩ := split_is_cons separator front
    show split separator (byte :: (front ++ separator :: back)) = _
    rw [split_cons, split_between separator back front, split_cons, h, cut_append]

theorem lines_unterminated {last : Byte} {body : Bytes} (h : (last == Ascii.newline) = false) :
    lines (body ++ [last]) = none := by
  rw [lines, reverse_append]
  exact bif_false h

theorem lines_terminated (body : Bytes) : lines (body ++ [Ascii.newline]) = some (split Ascii.newline body) := by
  rw [lines, reverse_append]
  rfl

/-- A non-empty text is a body and a last byte. -/
theorem last_byte : ∀ (bytes : Bytes), bytes = [] ∨ ∃ body last, bytes = body ++ [last]
  | [] => Or.inl rfl
  | byte :: bytes => Or.inr ((last_byte bytes).elim (fun h => ⟨[], byte, by rw [h]; rfl⟩) fun ⟨body, last, h⟩ =>
      ⟨byte :: body, last, by rw [h]; rfl⟩)

/-- A text has lines exactly when it ends with a newline. -/
theorem lines_iff {bytes : Bytes} {all : List Bytes} :
    lines bytes = some all ↔ ∃ body, bytes = body ++ [Ascii.newline] ∧ split Ascii.newline body = all :=
  ⟨fun h => by
    cases last_byte bytes with
    | inl e => rw [e] at h; cases h
    | inr e =>
      have ⟨body, last, e⟩ := e
      cases hb : last == Ascii.newline with
      | true =>
        rw [beq_iff.1 hb] at e
        rw [e, lines_terminated] at h
        injection h with h
        exact ⟨body, e, h⟩
      | false =>
        rw [e, lines_unterminated hb] at h
        (cases h),
  fun ⟨body, e, h⟩ => by rw [e, lines_terminated, h]⟩

/-- `lines` undoes `unlines`. -/
theorem lines_unlines {line : Bytes} {rest : List Bytes} (h : (line :: rest).all (lacks Ascii.newline) = true) :
    lines (unlines (line :: rest)) = some (line :: rest) :=
  lines_iff.2 ⟨_, rfl, split_join h⟩

/-- The lines of a text that goes on are the lines so far, and at least one more. -/
theorem lines_of_longer {front back : Bytes} {all short : List Bytes} (hl : lines (front ++ back) = some all)
    (hs : lines front = some short) (more : back ≠ []) : ∃ line rest, all = short ++ line :: rest := by
  have ⟨body, he, hb⟩ := lines_iff.1 hs
  cases last_byte back with
  | inl e => exact absurd e more
  | inr e =>
    have ⟨body', last, e⟩ := e
    have shape : front ++ back = body ++ Ascii.newline :: body' ++ [last] := by
      rw [he, e, append_assoc, append_assoc]
      rfl
    rw [shape] at hl
    cases hn : last == Ascii.newline with
    | false =>
      rw [lines_unterminated hn] at hl
      cases hl
    | true =>
      rw [beq_iff.1 hn, lines_terminated, split_between, hb] at hl
      injection hl with hl
      have ⟨line, rest, hc⟩ := split_is_cons Ascii.newline body'
      exact ⟨line, rest, by rw [← hl, hc]⟩

end Coeffect
