import Coeffect.Thm.Basic

/-!
# What it means to be covered

`Covers` says in five rules when one grant covers one item; `grant_covers_iff` proves that the executable test is exactly
that. Host patterns match label by label, and directories contain paths segment by segment.
-/
namespace Coeffect

/-- The rules. -/
inductive Covers : Grant → Item → Prop where
  /-- `network` covers every connection. -/
  | network (host : Host) (port : Nat) : Covers .network (.network host port)
  /-- A host covers itself, on its port or, without one, on every port. -/
  | host (host : Host) (granted : Option Nat) (port : Nat) (onPort : granted = none ∨ granted = some port) :
      Covers (.host ⟨false, host⟩ granted) (.network host port)
  /-- `*.` covers exactly one more label, whichever it is. -/
  | wildcard (label : Bytes) (parent : Host) (granted : Option Nat) (port : Nat)
      (onPort : granted = none ∨ granted = some port) :
      Covers (.host ⟨true, parent⟩ granted) (.network (label :: parent) port)
  /-- A credential covers the one of its name. -/
  | auth (name : Bytes) : Covers (.auth name) (.auth name)
  /-- A directory covers itself and all below it, for reading, or if it was granted so for writing. -/
  | filesystem (dir below : Path) (granted used : Access) (mode : granted = .readWrite ∨ used = .readOnly) :
      Covers (.filesystem dir granted) (.filesystem (dir ++ below) used)

theorem access_covers_iff {granted used : Access} :
    granted.covers used = true ↔ granted = .readWrite ∨ used = .readOnly := by
  cases granted with
  | readWrite => exact ⟨fun _ => Or.inl rfl, fun _ => rfl⟩
  | readOnly =>
    cases used with
    | readOnly => exact ⟨fun _ => Or.inr rfl, fun _ => rfl⟩
    | readWrite => exact ⟨fun h => (by cases h), fun h => h.elim (fun h => (by cases h)) fun h => (by cases h)⟩

theorem port_covers_iff {granted : Option Nat} {used : Nat} :
    portCovers granted used = true ↔ granted = none ∨ granted = some used := by
  cases granted with
  | none => exact ⟨fun _ => Or.inl rfl, fun _ => rfl⟩
  | some n =>
    exact ⟨fun h => Or.inr (congrArg some (beq_iff.1 h)), fun h => h.elim (fun h => (by cases h)) fun h => by
      injection h with h
      exact beq_iff.2 h⟩

/-- A path lies under a directory when the directory's segments come first, all of them whole. -/
theorem isUnder_iff : ∀ {dir path : Path}, isUnder dir path = true ↔ ∃ below, path = dir ++ below
  | [], path => ⟨fun _ => ⟨path, rfl⟩, fun _ => rfl⟩
  | d :: dir, [] => ⟨fun h => (by cases h), fun ⟨_, h⟩ => (by cases h)⟩
  | d :: dir, p :: path =>
    ⟨fun h => by
      have h := and_iff.1 h
      have ⟨below, hb⟩ := isUnder_iff.1 h.2
      exact ⟨below, by rw [same_iff.1 h.1, hb]; rfl⟩,
    fun ⟨below, h⟩ => by
      injection h with h₁ h₂
      exact and_iff.2 ⟨same_iff.2 h₁.symm, isUnder_iff.2 ⟨below, h₂⟩⟩⟩

/-- A pattern without a wildcard matches its own labels; with one, any single label in front of them. -/
theorem pattern_covers_iff {pattern : HostPattern} {host : Host} :
    pattern.covers host = true ↔
      (pattern.wild = false ∧ host = pattern.labels)
        ∨ (pattern.wild = true ∧ ∃ label, host = label :: pattern.labels) := by
  cases pattern with
  | mk wild labels =>
    cases wild with
    | false =>
      exact ⟨fun h => Or.inl ⟨rfl, (sameList_iff.1 h).symm⟩, fun h => h.elim (fun h => sameList_iff.2 h.2.symm)
        fun h => (by cases h.1)⟩
    | true =>
      cases host with
      | nil => exact ⟨fun h => (by cases h), fun h => h.elim (fun h => (by cases h.1)) fun ⟨_, _, h⟩ => (by cases h)⟩
      | cons label parent =>
        exact ⟨fun h => Or.inr ⟨rfl, label, by rw [sameList_iff.1 h]⟩, fun h => h.elim (fun h => (by cases h.1))
          fun ⟨_, _, h⟩ => by
            injection h with _ h
            exact sameList_iff.2 h.symm⟩

/-- The executable test decides the rules. -/
theorem grant_covers_iff {grant : Grant} {item : Item} : grant.covers item = true ↔ Covers grant item := by
  cases grant with
  | network =>
    cases item with
    | network host port => exact ⟨fun _ => .network host port, fun _ => rfl⟩
    | _ => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | host pattern granted =>
    cases item with
    | network host port =>
      exact ⟨fun h => by
        have h := and_iff.1 h
        have onPort := port_covers_iff.1 h.2
        cases pattern with
        | mk wild labels =>
          cases pattern_covers_iff.1 h.1 with
          | inl h =>
            have ⟨hw, hl⟩ := h
            cases hw
            cases hl
            exact .host _ _ _ onPort
          | inr h =>
            have ⟨hw, label, hl⟩ := h
            cases hw
            cases hl
            exact .wildcard _ _ _ _ onPort,
      fun h => by
        cases h with
        | host _ _ _ onPort => exact and_iff.2 ⟨pattern_covers_iff.2 (Or.inl ⟨rfl, rfl⟩), port_covers_iff.2 onPort⟩
        | wildcard label _ _ _ onPort =>
          exact and_iff.2 ⟨pattern_covers_iff.2 (Or.inr ⟨rfl, label, rfl⟩), port_covers_iff.2 onPort⟩⟩
    | _ => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | auth granted =>
    cases item with
    | auth used =>
      exact ⟨fun h => by rw [same_iff.1 h]; exact .auth used, fun h => by
        cases h
        exact same_self _⟩
    | _ => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | filesystem dir granted =>
    cases item with
    | filesystem path used =>
      exact ⟨fun h => by
        have h := and_iff.1 h
        have ⟨below, hb⟩ := isUnder_iff.1 h.1
        rw [hb]
        exact .filesystem dir below granted used (access_covers_iff.1 h.2),
      fun h => by
        cases h with
        | filesystem _ below _ _ mode => exact and_iff.2 ⟨isUnder_iff.2 ⟨below, rfl⟩, access_covers_iff.2 mode⟩⟩
    | _ => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩

/-- The rules for a whole declaration: GPUs by quantity and class, the sandbox by kind, the rest by some grant. -/
def Declaration.Covers (declared : Declaration) (item : Item) : Prop :=
  match item with
  | .gpu used =>
    ∃ granted, declared.gpu = some granted
      ∧ used.count ≤ granted.count ∧ granted.memory ≤ used.memory ∧ granted.sm ≤ used.sm
  | .sandbox kind => declared.sandboxes.covers kind = true
  | item => ∃ grant, grant ∈ declared.grants ∧ Coeffect.Covers grant item

theorem gpu_covers_iff {granted used : Gpu} :
    granted.covers used = true ↔ used.count ≤ granted.count ∧ granted.memory ≤ used.memory ∧ granted.sm ≤ used.sm :=
  ⟨fun h =>
    have h := and_iff.1 h
    have h' := and_iff.1 h.1
    ⟨ble_iff.1 h'.1, ble_iff.1 h'.2, ble_iff.1 h.2⟩,
  fun h => and_iff.2 ⟨and_iff.2 ⟨ble_iff.2 h.1, ble_iff.2 h.2.1⟩, ble_iff.2 h.2.2⟩⟩

theorem any_covers_iff {grants : List Grant} {item : Item} :
    (grants.any fun grant => grant.covers item) = true ↔ ∃ grant, grant ∈ grants ∧ Covers grant item :=
  ⟨fun h =>
    have ⟨grant, hm, hc⟩ := any_iff.1 h
    ⟨grant, hm, grant_covers_iff.1 hc⟩,
  fun ⟨grant, hm, hc⟩ => any_iff.2 ⟨grant, hm, grant_covers_iff.2 hc⟩⟩

/-- The executable test for a whole declaration decides its rules. -/
theorem declaration_covers_iff {declared : Declaration} {item : Item} :
    declared.covers item = true ↔ declared.Covers item := by
  cases item with
  | gpu used =>
    cases declared with
    | mk grants gpu sandboxes =>
      cases gpu with
      | none => exact ⟨fun h => (by cases h), fun ⟨_, h, _⟩ => (by cases h)⟩
      | some granted =>
        exact ⟨fun h => ⟨granted, rfl, gpu_covers_iff.1 h⟩, fun ⟨_, h, hc⟩ => by
          cases h
          exact gpu_covers_iff.2 hc⟩
  | sandbox kind => exact Iff.rfl
  | network host port => exact any_covers_iff
  | auth name => exact any_covers_iff
  | filesystem path access => exact any_covers_iff

end Coeffect
