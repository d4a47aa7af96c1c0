import Coeffect.Thm.Text

/-!
# Failing closed

Which documents are never approved, case by case: cut short, of an unknown version, saying something twice, with records
missing or out of order, not closed, going on after the close, with records dropped, or silent about the sandbox.
-/
namespace Coeffect

/-! ## Steps -/

theorem chain_ok {ε α β : Type} {first : Except ε α} {next : α → Except ε β} {b : β} :
    chain first next = .ok b ↔ ∃ a, first = .ok a ∧ next a = .ok b := by
  cases first with
  | error fault => exact ⟨fun h => (by cases h), fun ⟨_, h, _⟩ => (by cases h)⟩
  | ok a =>
    exact ⟨fun h => ⟨a, rfl, h⟩, fun ⟨_, h, h'⟩ => by
      cases h
      exact h'⟩

theorem bif_ok {ε α : Type} {c : Bool} {a : Except ε α} {fault : ε} {b : α} :
    (bif c then a else .error fault) = .ok b ↔ c = true ∧ a = .ok b := by
  cases c with
  | false => exact ⟨fun h => (by cases h), fun h => (by cases h.1)⟩
  | true => exact ⟨fun h => ⟨rfl, h⟩, fun h => h.2⟩

theorem bif_some {α : Type} {c : Bool} {a : Option α} {b : α} :
    (bif c then a else none) = some b ↔ c = true ∧ a = some b := by
  cases c with
  | false => exact ⟨fun h => (by cases h), fun h => (by cases h.1)⟩
  | true => exact ⟨fun h => ⟨rfl, h⟩, fun h => h.2⟩

theorem atRecord_ok {α : Type} {number : Nat} {result : Except Fault α} {a : α} :
    atRecord number result = .ok a ↔ result = .ok a := by
  cases result with
  | error fault => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | ok b =>
    exact ⟨fun h => by
      injection h with h
      rw [h], fun h => by
      injection h with h
      rw [h]
      rfl⟩

theorem bodyOf_ok {header : Bytes} {all : Option (List Bytes)} {body : List Bytes} :
    bodyOf header all = .ok body ↔ all = some (header :: body) := by
  cases all with
  | none => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | some all =>
    cases all with
    | nil => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩
    | cons first rest =>
      exact ⟨fun h => by
        have h := bif_ok.1 h
        rw [same_iff.1 h.1]
        injection h.2 with h
        rw [h],
      fun h => by
        injection h with h
        injection h with h₁ h₂
        exact bif_ok.2 ⟨same_iff.2 h₁, by rw [h₂]⟩⟩

/-! ## The shape of what is accepted -/

/-- A declaration is two lines, of which the first is the header. -/
theorem declaration_shape {bytes : Bytes} {declared : Declaration} (h : parseDeclaration bytes = .ok declared) :
    ∃ property, lines bytes = some [Word.declarationHeader, property] ∧ parseProperty property = .ok declared := by
  have ⟨body, hb, h⟩ := chain_ok.1 h
  have hb := bodyOf_ok.1 hb
  cases body with
  | nil => cases h
  | cons property more =>
    cases more with
    | nil => exact ⟨property, hb, h⟩
    | cons _ _ => cases h

/-- Evidence is the header, an opening, and records that are read up to a close. -/
theorem evidence_shape {bytes : Bytes} {used : Evidence} (h : parseEvidence bytes = .ok used) :
    ∃ line rest, lines bytes = some (Word.evidenceHeader :: line :: rest) ∧ parseOpen line = some used.session
      ∧ parseRecords used.session 0 [] rest = .ok used.items ∧ used.items.any isSandboxItem = true := by
  have ⟨body, hb, h⟩ := chain_ok.1 h
  have hb := bodyOf_ok.1 (atRecord_ok.1 hb)
  cases body with
  | nil => cases h
  | cons line rest =>
    have h : (match parseOpen line with
      | none => Except.error (0, Fault.session)
      | some session => chain (parseRecords session 0 [] rest) (sandboxed session)) = .ok used := h
    cases ho : parseOpen line with
    | none => rw [ho] at h; cases h
    | some session =>
      rw [ho] at h
      have ⟨items, hi, h⟩ := chain_ok.1 h
      have h := bif_ok.1 h
      injection h.2 with e
      cases e
      exact ⟨line, rest, hb, ho, hi, h.1⟩

/-- A close names the session that was opened, the number of records that were read, and none that were dropped. -/
theorem close_shape {session : Bytes} {count : Nat} {fields : List Bytes} (h : checkClose session count fields = .ok ()) :
    ∃ records dropped, fields = [session, records, dropped] ∧ parseNat records = some count
      ∧ parseNat dropped = some 0 := by
  cases fields with
  | nil => cases h
  | cons name fields =>
    cases fields with
    | nil => cases h
    | cons records fields =>
      cases fields with
      | nil => cases h
      | cons dropped fields =>
        cases fields with
        | cons _ _ => cases h
        | nil =>
          have h : (bif !same name session then Except.error Fault.session
            else match parseNat records, parseNat dropped with
            | some records, some dropped =>
              bif !(records == count) then .error .sequence else bif dropped == 0 then .ok () else .error .dropped
            | _, _ => .error .number) = .ok () := h
          cases hs : same name session with
          | false => rw [hs] at h; cases h
          | true =>
            rw [hs] at h
            have h : (match parseNat records, parseNat dropped with
              | some records, some dropped =>
                bif !(records == count) then Except.error Fault.sequence else bif dropped == 0 then .ok () else .error .dropped
              | _, _ => .error .number) = .ok () := h
            cases hr : parseNat records with
            | none => rw [hr] at h; cases h
            | some n =>
              cases hd : parseNat dropped with
              | none => rw [hr, hd] at h; cases h
              | some k =>
                rw [hr, hd] at h
                have h : (bif !(n == count) then Except.error Fault.sequence else bif k == 0 then .ok () else .error .dropped)
                  = .ok () := h
                cases hn : n == count with
                | false => rw [hn] at h; cases h
                | true =>
                  rw [hn] at h
                  have h := (bif_ok (a := .ok ())).1 (h : (bif k == 0 then Except.ok () else .error Fault.dropped) = .ok ())
                  exact ⟨records, dropped, by rw [same_iff.1 hs], by rw [hr, beq_iff.1 hn], by rw [hd, beq_iff.1 h.1]⟩

/-- What one line of records must be: a record with the right number, or the close, with nothing behind it. -/
theorem records_shape {session line : Bytes} {next : Nat} {found items : List Item} {rest : List Bytes}
    (h : parseRecords session next found (line :: rest) = .ok items) :
    (∃ fields, split Ascii.space line = Word.close :: fields ∧ checkClose session next fields = .ok ()
        ∧ rest = [] ∧ items = found.reverse)
      ∨ ∃ word fields item, split Ascii.space line = word :: fields ∧ parseRecord next word fields = .ok item
        ∧ parseRecords session (next + 1) (item :: found) rest = .ok items := by
  have ⟨word, fields, hs⟩ := split_is_cons Ascii.space line
  have h : (match split Ascii.space line with
    | [] => Except.error (next, Fault.syntactic)
    | word :: fields =>
      bif same word Word.close then
        chain (atRecord next (checkClose session next fields)) fun _ => parseEnd next found.reverse rest
      else match parseRecord next word fields with
      | .error fault => .error (next, fault)
      | .ok item => parseRecords session (next + 1) (item :: found) rest) = .ok items := h
  rw [hs] at h
  have h : (bif same word Word.close then
      chain (atRecord next (checkClose session next fields)) fun _ => parseEnd next found.reverse rest
    else match parseRecord next word fields with
    | .error fault => Except.error (next, fault)
    | .ok item => parseRecords session (next + 1) (item :: found) rest) = .ok items := h
  cases hc : same word Word.close with
  | true =>
    rw [bif_true hc] at h
    have ⟨_, h₁, h⟩ := chain_ok.1 h
    cases rest with
    | cons _ _ => cases h
    | nil =>
      injection h with h
      exact Or.inl ⟨fields, by rw [hs, same_iff.1 hc], atRecord_ok.1 h₁, rfl, h.symm⟩
  | false =>
    rw [bif_false hc] at h
    cases hp : parseRecord next word fields with
    | error fault => rw [hp] at h; cases h
    | ok item => rw [hp] at h; exact Or.inr ⟨word, fields, item, hs, hp, h⟩

/-- Records that end, end there: with more lines behind them they do not parse. -/
theorem records_end {session line : Bytes} {more : List Bytes} : ∀ {all : List Bytes} {next : Nat} {found items : List Item},
    parseRecords session next found all = .ok items → ∀ other, parseRecords session next found (all ++ line :: more) ≠ .ok other
  | [], _, _, _, h, _, _ => by cases h
  | first :: all, next, found, items, h, other, h' => by
    have h' : parseRecords session next found (first :: (all ++ line :: more)) = .ok other := h'
    cases records_shape h with
    | inl c =>
      have ⟨fields, hs, _⟩ := c
      cases records_shape h' with
      | inl c' =>
        have ⟨_, _, _, he, _⟩ := c'
        cases all <;> cases he
      | inr r =>
        have ⟨word, _, _, hs', hp, _⟩ := r
        rw [hs] at hs'
        injection hs' with hw _
        rw [← hw] at hp
        cases hp
    | inr r =>
      have ⟨word, fields, item, hs, hp, hr⟩ := r
      cases records_shape h' with
      | inl c' =>
        have ⟨_, hs', _⟩ := c'
        rw [hs] at hs'
        injection hs' with hw _
        rw [hw] at hp
        cases hp
      | inr r' =>
        have ⟨word', fields', item', hs', hp', hr'⟩ := r'
        rw [hs] at hs'
        injection hs' with hw hf
        rw [← hw, ← hf, hp] at hp'
        injection hp' with hi
        rw [← hi] at hr'
        exact records_end hr other hr'

/-! ## What is never approved -/

/-- Evidence that was cut short anywhere is no evidence. -/
theorem evidence_cut_short {front back : Bytes} {used : Evidence} (h : parseEvidence (front ++ back) = .ok used)
    (missing : back ≠ []) (other : Evidence) : parseEvidence front ≠ .ok other := fun h' => by
  have ⟨line, rest, hl, ho, hr, _⟩ := evidence_shape h
  have ⟨line', rest', hl', ho', hr', _⟩ := evidence_shape h'
  have ⟨extra, more, he⟩ := lines_of_longer hl hl' missing
  injection he with _ he
  injection he with h₁ h₂
  rw [h₁, ho'] at ho
  injection ho with ho
  rw [h₂, ← ho] at hr
  exact records_end hr' _ hr

/-- A declaration that was cut short anywhere is no declaration. -/
theorem declaration_cut_short {front back : Bytes} {declared : Declaration}
    (h : parseDeclaration (front ++ back) = .ok declared) (missing : back ≠ []) (other : Declaration) :
    parseDeclaration front ≠ .ok other := fun h' => by
  have ⟨_, hl, _⟩ := declaration_shape h
  have ⟨_, hl', _⟩ := declaration_shape h'
  have ⟨_, _, he⟩ := lines_of_longer hl hl' missing
  injection he with _ he
  injection he with _ he
  cases he

/-- **Truncation.** Once two documents are approved, neither is when any number of bytes is missing at the end. -/
theorem truncation_is_rejected {declaration evidence front back : Bytes} (h : check declaration evidence = .approve)
    (missing : back ≠ []) :
    (declaration = front ++ back → check front evidence ≠ .approve)
      ∧ (evidence = front ++ back → check declaration front ≠ .approve) := by
  have ⟨_, _, hd, hu, _⟩ := check_approves_iff.1 h
  exact ⟨fun e ha => by
    rw [e] at hd
    have ⟨other, _, ho, _⟩ := check_approves_iff.1 ha
    exact declaration_cut_short hd missing other ho,
  fun e ha => by
    rw [e] at hu
    have ⟨_, other, _, ho, _⟩ := check_approves_iff.1 ha
    exact evidence_cut_short hu missing other ho⟩

/-- **Versions.** Only documents with the known headers are approved. -/
theorem unknown_version_is_rejected {declaration evidence : Bytes} (h : check declaration evidence = .approve) :
    (∃ property, lines declaration = some [Word.declarationHeader, property])
      ∧ ∃ body, lines evidence = some (Word.evidenceHeader :: body) := by
  have ⟨_, _, hd, hu, _⟩ := check_approves_iff.1 h
  have ⟨property, hl, _⟩ := declaration_shape hd
  have ⟨_, _, hl', _⟩ := evidence_shape hu
  exact ⟨⟨property, hl⟩, _, hl'⟩

/-- What an accepted run of records looks like: so many lines as items, then the close, which counts them all. -/
theorem records_are_complete {session : Bytes} : ∀ {all : List Bytes} {next : Nat} {found items : List Item},
    parseRecords session next found all = .ok items →
      ∃ records close fields, all = records ++ [close] ∧ split Ascii.space close = Word.close :: fields
        ∧ checkClose session (next + records.length) fields = .ok () ∧ items.length = found.length + records.length
  | [], _, _, _, h => by cases h
  | line :: all, next, found, items, h => by
    cases records_shape h with
    | inl c =>
      have ⟨fields, hs, hc, he, hi⟩ := c
      refine ⟨[], line, fields, by rw [he]; rfl, hs, hc, ?_⟩
      rw [hi]
      exact length_reverse found
    | inr r =>
      have ⟨_, _, item, _, _, hr⟩ := r
      have ⟨records, close, fields, ha, hs, hc, hn⟩ := records_are_complete hr
      refine ⟨line :: records, close, fields, by rw [ha]; rfl, hs, ?_, ?_⟩
      · rw [show next + (line :: records).length = next + 1 + records.length from (succ_add next records.length).symm]
        exact hc
      · rw [hn]
        exact succ_add found.length records.length
where
  length_append : ∀ (a : List Item) (x : Item), (a ++ [x]).length = a.length + 1
    | [], _ => rfl
    | _ :: a, x => congrArg Nat.succ (length_append a x)
  length_reverse : ∀ a : List Item, a.reverse.length = a.length + 0
    | [] => rfl
    | x :: a => by
      rw [reverse_cons, length_append, length_reverse a]
      rfl

/-- **Session completeness.** Approved evidence was opened under a name, has one numbered record for each item, and is
closed under the same name by a last line that counts all of them and says that none was dropped. -/
theorem approved_session_is_complete {declaration evidence : Bytes} (h : check declaration evidence = .approve) :
    ∃ session opening records close count dropped,
      lines evidence = some (Word.evidenceHeader :: opening :: records ++ [close]) ∧ parseOpen opening = some session
        ∧ split Ascii.space close = [Word.close, session, count, dropped] ∧ parseNat count = some records.length
        ∧ parseNat dropped = some 0 := by
  have ⟨_, used, _, hu, _⟩ := check_approves_iff.1 h
  have ⟨line, rest, hl, ho, hr, _⟩ := evidence_shape hu
  have ⟨records, close, fields, ha, hs, hc, _⟩ := records_are_complete hr
  have ⟨count, dropped, hf, hn, hd⟩ := close_shape hc
  refine ⟨used.session, line, records, close, count, dropped, ?_, ho, by rw [hs, hf], ?_, hd⟩
  · rw [hl, ha]
    rfl
  · rw [hn, zero_add]

/-- **Sandboxes.** Approved evidence says in which sandbox the action ran. -/
theorem approved_evidence_names_a_sandbox {declaration evidence : Bytes} (h : check declaration evidence = .approve) :
    ∃ used kind, parseEvidence evidence = .ok used ∧ Item.sandbox kind ∈ used.items := by
  have ⟨_, used, _, hu, _⟩ := check_approves_iff.1 h
  have ⟨_, _, _, _, _, hb⟩ := evidence_shape hu
  have ⟨item, hi, hs⟩ := any_iff.1 hb
  cases item with
  | sandbox kind => exact ⟨used, kind, hu, hi⟩
  | _ => cases hs

/-- **Duplicates.** The terms of an approved declaration do not clash: none is there twice, and one quantity at most. -/
theorem duplicates_are_rejected {property : Bytes} {terms : List Term} (hp : same property Word.pure = false)
    (ht : parseTerms (split Ascii.plus property) = .ok terms) (clash : clashFree terms = false) :
    parseProperty property = .error .duplicate := by
  rw [parseProperty, bif_false hp, ht]
  exact bif_false clash

end Coeffect
