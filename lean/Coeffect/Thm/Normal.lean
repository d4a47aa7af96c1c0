import Coeffect.Thm.Numbers

/-!
# Normal forms

Hosts and paths: what is read is in normal form, what is in normal form is read back from its print unchanged, and so
normalising twice is normalising once.
-/
namespace Coeffect

/-! ## Hosts -/

theorem lower_fixes {byte : Byte} (h : isUpper byte = false) : lower byte = byte := bif_false h

theorem map_lower : ∀ {bytes : Bytes}, bytes.all (fun byte => !isUpper byte) = true → bytes.map lower = bytes
  | [], _ => rfl
  | byte :: bytes, h => by
    have h := and_iff.1 h
    show lower byte :: bytes.map lower = _
    rw [lower_fixes (not_iff.1 h.1), map_lower h.2]

theorem above_is_not_upper {low byte : Byte} (h : low ≤ byte) (out : Nat.ble low Ascii.upperZ = false) :
    isUpper byte = false :=
  eq_false_of_ne fun hu => not_le_of_ble out (Nat.le_trans h (ble_iff.1 (and_iff.1 hu).2))

theorem below_is_not_upper {high byte : Byte} (h : byte ≤ high) (out : Nat.ble Ascii.upperA high = false) :
    isUpper byte = false :=
  eq_false_of_ne fun hu => not_le_of_ble out (Nat.le_trans (ble_iff.1 (and_iff.1 hu).1) h)

/-- Bytes of normalised labels are no capital letters. -/
theorem label_byte_not_upper {byte : Byte} (h : isLabelByte byte = true) : isUpper byte = false := by
  cases or_iff.1 h with
  | inr h => rw [beq_iff.1 h]; rfl
  | inl h =>
    cases or_iff.1 h with
    | inr h => rw [beq_iff.1 h]; rfl
    | inl h =>
      cases or_iff.1 h with
      | inl h => exact above_is_not_upper (ble_iff.1 (and_iff.1 h).1) rfl
      | inr h => exact below_is_not_upper (ble_iff.1 (and_iff.1 h).2) rfl

theorem all_join {p : Byte → Bool} {separator : Byte} (hs : p separator = true) : ∀ {fields : List Bytes},
    (∀ field, field ∈ fields → field.all p = true) → (join separator fields).all p = true
  | [], _ => rfl
  | [field], h => h field (List.Mem.head [])
  | field :: next :: fields, h => by
    show (field ++ separator :: join separator (next :: fields)).all p = true
    rw [all_append]
    exact and_iff.2 ⟨h field (List.Mem.head _), and_iff.2 ⟨hs, all_join hs fun other ho => h other (List.Mem.tail _ ho)⟩⟩

theorem valid_label_bytes {label : Bytes} (h : validLabel label = true) : label.all isLabelByte = true :=
  (and_iff.1 (and_iff.1 (and_iff.1 h).1).1).2

theorem valid_label_not_empty {label : Bytes} (h : validLabel label = true) : label ≠ [] := fun e => by
  have h := (and_iff.1 (and_iff.1 (and_iff.1 (and_iff.1 h).1).1).1).1
  rw [e] at h
  cases h

theorem valid_host_labels {host : Host} (h : validHost host = true) : ∀ label, label ∈ host → validLabel label = true := by
  cases host with
  | nil => cases h
  | cons first labels =>
    have h := and_iff.1 (and_iff.1 h).1
    exact fun label hl => (mem_cons.1 hl).elim (fun e => e ▸ h.1) (all_iff.1 h.2 label)

theorem dropRoot_keeps : ∀ {host : Host}, (∀ label, label ∈ host → label ≠ []) → dropRoot host = host
  | [], _ => rfl
  | [_], _ => rfl
  | first :: second :: rest, h => by
    have ih : dropRoot (second :: rest) = second :: rest := dropRoot_keeps fun label hl => h label (List.Mem.tail _ hl)
    cases second with
    | nil => exact absurd rfl (h [] (List.Mem.tail _ (List.Mem.head _)))
    | cons byte bytes =>
      have step : dropRoot (first :: (byte :: bytes) :: rest) = first :: dropRoot ((byte :: bytes) :: rest) := by
        cases rest <;> rfl
      rw [step, ih]

/-- **Hosts.** A normalised host is read back from its print. -/
theorem normaliseHost_print {host : Host} (h : validHost host = true) : normaliseHost (printHost host) = host := by
  have labels := valid_host_labels h
  have small : (printHost host).map lower = printHost host := map_lower (all_join (p := fun byte => !isUpper byte) (separator := Ascii.dot) rfl fun label hl =>
    all_iff.2 fun byte hb => not_iff.2 (label_byte_not_upper (all_iff.1 (valid_label_bytes (labels label hl)) byte hb)))
  have cut : split Ascii.dot (printHost host) = host := by
    cases host with
    | nil => cases h
    | cons first rest =>
      exact split_join (all_iff.2 fun label hl => lacks_of_class isLabelByte rfl (valid_label_bytes (labels label hl)))
  rw [normaliseHost, small, cut]
  exact dropRoot_keeps fun label hl => valid_label_not_empty (labels label hl)

theorem parse_printHost {host : Host} (h : validHost host = true) : parseHost (printHost host) = some host := by
  rw [parseHost, normaliseHost_print h]
  exact bif_true h

/-- What is read as a host is in normal form. -/
theorem parsed_host_is_valid {bytes : Bytes} {host : Host} (h : parseHost bytes = some host) : validHost host = true := by
  have h := bif_some.1 h
  injection h.2 with e
  exact e ▸ h.1

/-- Normalising a host again changes nothing. -/
theorem normaliseHost_idempotent {bytes : Bytes} (h : validHost (normaliseHost bytes) = true) :
    normaliseHost (printHost (normaliseHost bytes)) = normaliseHost bytes :=
  normaliseHost_print h

/-! ## Paths -/

/-- A segment that stays: not empty, not `.`, not `..`. -/
def stays (segment : Bytes) : Bool :=
  !(isEmpty segment || same segment Word.here) && !same segment Word.parent

theorem walk_keeps : ∀ {segments directory : Path}, segments.all stays = true →
    walk directory segments = directory.reverse ++ segments
  | [], directory, _ => (append_nil _).symm
  | segment :: segments, directory, h => by
    have h := and_iff.1 h
    have hs := and_iff.1 h.1
    have step : walk directory (segment :: segments) = walk (segment :: directory) segments :=
      (bif_false (not_iff.1 hs.1)).trans (bif_false (not_iff.1 hs.2))
    rw [step, walk_keeps h.2, reverse_cons, append_assoc]
    rfl

theorem walk_stays : ∀ {segments directory : Path}, directory.all stays = true → (walk directory segments).all stays = true
  | [], directory, h => all_iff.2 fun segment hs => all_iff.1 h segment (mem_reverse.1 hs)
  | segment :: segments, directory, h => by
    show (bif isEmpty segment || same segment Word.here then walk directory segments
      else bif same segment Word.parent then walk (up directory) segments
      else walk (segment :: directory) segments).all stays = true
    cases ha : isEmpty segment || same segment Word.here with
    | true => exact walk_stays h
    | false =>
      cases hb : same segment Word.parent with
      | true =>
        refine walk_stays (directory := up directory) ?_
        cases directory with
        | nil => rfl
        | cons _ above => exact (and_iff.1 h).2
      | false =>
        refine walk_stays (directory := segment :: directory) (and_iff.2 ⟨?_, h⟩)
        rw [stays, ha, hb]
        rfl

/-- **Paths.** Normalising a path again changes nothing. -/
theorem normalisePath_idempotent (segments : Path) : normalisePath (normalisePath segments) = normalisePath segments :=
  walk_keeps (directory := []) (walk_stays (directory := []) rfl)

theorem hexValue_hexDigit : ∀ n : Nat, n ≤ 15 → hexValue (hexDigit n) = some n
  | 0, _ => rfl
  | 1, _ => rfl
  | 2, _ => rfl
  | 3, _ => rfl
  | 4, _ => rfl
  | 5, _ => rfl
  | 6, _ => rfl
  | 7, _ => rfl
  | 8, _ => rfl
  | 9, _ => rfl
  | 10, _ => rfl
  | 11, _ => rfl
  | 12, _ => rfl
  | 13, _ => rfl
  | 14, _ => rfl
  | 15, _ => rfl
  | n + 16, h => absurd (Nat.le_trans (add_comm n 16 ▸ le_add 16 n) h) (not_le_of_ble (m := 16) (n := 15) rfl)

/-- A byte that may be in a segment: none but NUL and the slash is forbidden. -/
def isSegmentByte (byte : Byte) : Bool := between 1 255 byte && !(byte == Ascii.slash)

theorem segment_byte_not_zero {byte : Byte} (h : isSegmentByte byte = true) : (byte == 0) = false :=
  eq_false_of_ne fun e => by
    rw [beq_iff.1 e] at h
    cases h

theorem prepend_some {byte : Byte} {bytes : Bytes} (h : (byte == 0) = false) : prepend byte (some bytes) = some (byte :: bytes) :=
  bif_false h

theorem decode_safe {byte : Byte} {rest : Bytes} (h : (isSafe byte || byte == Ascii.slash) = true) :
    decode (byte :: rest) = prepend byte (decode rest) := by
  cases rest with
  | nil => exact bif_true h
  | cons x rest =>
    cases rest with
    | nil => exact bif_true h
    | cons y rest => exact bif_true h

theorem decode_percent {high low : Byte} {rest : Bytes} {h l : Nat} (hh : hexValue high = some h) (hl : hexValue low = some l) :
    decode (Ascii.percent :: high :: low :: rest) = prepend (h * 16 + l) (decode rest) := by
  show (match hexValue high, hexValue low with
    | some high, some low => prepend (high * 16 + low) (decode rest)
    | _, _ => none) = _
  rw [hh, hl]

theorem decode_encode : ∀ {segment rest decoded : Bytes}, segment.all isSegmentByte = true → decode rest = some decoded →
    decode (encode segment ++ rest) = some (segment ++ decoded)
  | [], _, _, _, h => h
  | byte :: segment, rest, decoded, hs, h => by
    have hs := and_iff.1 hs
    have ih := decode_encode hs.2 h
    have nonzero := segment_byte_not_zero hs.1
    cases hb : isSafe byte with
    | true =>
      rw [show encode (byte :: segment) = byte :: encode segment from bif_true hb]
      show decode (byte :: (encode segment ++ rest)) = _
      rw [decode_safe (or_iff.2 (Or.inl hb)), ih, prepend_some nonzero]
      rfl
    | false =>
      rw [show encode (byte :: segment)
        = Ascii.percent :: hexDigit (byte / 16) :: hexDigit (byte % 16) :: encode segment from bif_false hb]
      show decode (Ascii.percent :: hexDigit (byte / 16) :: hexDigit (byte % 16) :: (encode segment ++ rest)) = _
      have bound : byte ≤ 255 := ble_iff.1 (and_iff.1 (and_iff.1 hs.1).1).2
      have high : byte / 16 ≤ 15 := Nat.le_of_succ_le_succ (div_lt (bound := 16) (k := 16) (Nat.succ_le_succ bound))
      have low : byte % 16 ≤ 15 := Nat.le_of_succ_le_succ (Nat.mod_lt byte (ble_iff.1 rfl))
      rw [decode_percent (hexValue_hexDigit _ high) (hexValue_hexDigit _ low), ih, mul_comm (byte / 16) 16,
        Nat.div_add_mod, prepend_some nonzero]
      rfl

theorem decode_segments : ∀ {segment : Bytes} {segments : Path},
    (∀ s, s ∈ segment :: segments → s.all isSegmentByte = true) →
      decode (printSegments (segment :: segments)) = some (Ascii.slash :: join Ascii.slash (segment :: segments))
  | segment, [], h => by
    show decode (Ascii.slash :: (encode segment ++ [])) = _
    rw [decode_safe (byte := Ascii.slash) rfl, decode_encode (h segment (List.Mem.head [])) (rfl : decode [] = some []), append_nil]
    rfl
  | segment, next :: segments, h => by
    have ih := decode_segments fun s hs => h s (List.Mem.tail segment hs)
    show decode (Ascii.slash :: (encode segment ++ printSegments (next :: segments))) = _
    rw [decode_safe (byte := Ascii.slash) rfl, decode_encode (h segment (List.Mem.head _)) ih]
    rfl

/-- A path in normal form. -/
def validPath (path : Path) : Bool := path.all stays && path.all fun segment => segment.all isSegmentByte

/-- **Paths.** A path in normal form is read back from its print. -/
theorem parse_printPath {path : Path} (h : validPath path = true) : parsePath (printPath path) = some path := by
  cases path with
  | nil => rfl
  | cons segment segments =>
    have h := and_iff.1 h
    have hb := all_iff.1 h.2
    show parsePath (printSegments (segment :: segments)) = _
    have cut : split Ascii.slash (join Ascii.slash (segment :: segments)) = segment :: segments :=
      split_join (all_iff.2 fun s hs => all_iff.2 fun byte hbyte => (and_iff.1 (all_iff.1 (hb s hs) byte hbyte)).2)
    rw [parsePath, decode_segments hb]
    show some (normalisePath (split Ascii.slash (join Ascii.slash (segment :: segments)))) = _
    rw [cut, normalisePath, walk_keeps h.1]
    rfl

end Coeffect
