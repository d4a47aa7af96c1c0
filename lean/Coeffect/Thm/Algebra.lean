import Coeffect.Thm.Covers

/-!
# The algebra of declarations

Entailment of grants is inclusion of what they cover. Entailment of declarations is a preorder in which `join` is the
least upper bound, `nothing` the least element and `parallel` a monotone, commutative, associative upper bound with the
same unit. Equivalence is entailment both ways: declarations that cover the same may still list their grants differently.
-/
namespace Coeffect

/-! ## Parts -/

theorem access_le_iff {small large : Access} :
    large.covers small = true ↔ ∀ used, small.covers used = true → large.covers used = true := by
  cases large with
  | readWrite => exact ⟨fun _ _ _ => rfl, fun _ => rfl⟩
  | readOnly =>
    cases small with
    | readOnly => exact ⟨fun _ _ h => h, fun _ => rfl⟩
    | readWrite => exact ⟨fun h => (by cases h), fun h => (by cases h .readWrite rfl)⟩

theorem port_le_iff {small large : Option Nat} :
    portLe small large = true ↔ ∀ used, portCovers small used = true → portCovers large used = true := by
  cases large with
  | none => exact ⟨fun _ _ _ => rfl, fun _ => by cases small <;> rfl⟩
  | some m =>
    cases small with
    | none =>
      exact ⟨fun h => (by cases h), fun h =>
        absurd (beq_iff.1 (h (m + 1) rfl)) fun e => Nat.not_succ_le_self m (by
          show m + 1 ≤ m
          rw [← e]
          exact Nat.le_refl m)⟩
    | some n =>
      exact ⟨fun h used hu => beq_iff.2 ((beq_iff.1 h).trans (beq_iff.1 hu)), fun h => h n (beq_self n)⟩

theorem pattern_le_iff {small large : HostPattern} :
    small.le large = true ↔ ∀ host, small.covers host = true → large.covers host = true := by
  cases small with
  | mk wild labels =>
    cases large with
    | mk wild' labels' =>
      cases wild with
      | false =>
        cases wild' with
        | false =>
          exact ⟨fun h host hc => sameList_iff.2 ((sameList_iff.1 h).trans (sameList_iff.1 hc)),
            fun h => h labels (sameList_self labels)⟩
        | true =>
          exact ⟨fun h host hc => by rw [← sameList_iff.1 hc]; exact h, fun h => h labels (sameList_self labels)⟩
      | true =>
        cases wild' with
        | false =>
          exact ⟨fun h => (by cases h), fun h => by
            have h₁ := sameList_iff.1 (h ([] :: labels) (sameList_self labels))
            have h₂ := sameList_iff.1 (h ([0] :: labels) (sameList_self labels))
            rw [h₁] at h₂
            cases h₂⟩
        | true =>
          exact ⟨fun h host hc => by
            cases host with
            | nil => cases hc
            | cons label parent => exact sameList_iff.2 ((sameList_iff.1 h).trans (sameList_iff.1 hc)),
            fun h => h ([] :: labels) (sameList_self labels)⟩

/-- No pattern covers every host. -/
theorem pattern_misses_one (pattern : HostPattern) : ∃ host, pattern.covers host = false := by
  cases pattern with
  | mk wild labels =>
    cases wild with
    | true => exact ⟨[], rfl⟩
    | false =>
      cases labels with
      | nil => exact ⟨[[]], rfl⟩
      | cons label labels => exact ⟨[], rfl⟩

/-- Every pattern covers some host. -/
theorem pattern_covers_one (pattern : HostPattern) : ∃ host, pattern.covers host = true := by
  cases pattern with
  | mk wild labels =>
    cases wild with
    | true => exact ⟨[] :: labels, sameList_self labels⟩
    | false => exact ⟨labels, sameList_self labels⟩

theorem port_covers_one (port : Option Nat) : ∃ used, portCovers port used = true := by
  cases port with
  | none => exact ⟨0, rfl⟩
  | some n => exact ⟨n, beq_self n⟩

theorem isUnder_refl (path : Path) : isUnder path path = true := isUnder_iff.2 ⟨[], (append_nil path).symm⟩

theorem under_le_iff {small large : Path} :
    isUnder large small = true ↔ ∀ path, isUnder small path = true → isUnder large path = true :=
  ⟨fun h path hp => by
    have ⟨below, hb⟩ := isUnder_iff.1 h
    have ⟨below', hb'⟩ := isUnder_iff.1 hp
    exact isUnder_iff.2 ⟨below ++ below', by rw [hb', hb, append_assoc]⟩,
  fun h => h small (isUnder_refl small)⟩

theorem access_covers_self (access : Access) : access.covers access = true := by cases access <;> rfl

/-! ## Grants -/

/-- Entailment of grants is exactly inclusion of what they cover. -/
theorem grant_le_iff {small large : Grant} :
    small.le large = true ↔ ∀ item, Covers small item → Covers large item := by
  have semantic : small.le large = true ↔ ∀ item, small.covers item = true → large.covers item = true := by
    cases small with
    | network =>
      cases large with
      | network => exact ⟨fun _ _ h => h, fun _ => rfl⟩
      | host pattern port =>
        have ⟨host, hm⟩ := pattern_misses_one pattern
        exact ⟨fun h => (by cases h), fun h => by
          have h := (and_iff.1 (h (.network host 0) rfl)).1
          rw [hm] at h
          exact h⟩
      | auth name => exact ⟨fun h => (by cases h), fun h => (by cases h (.network [] 0) rfl)⟩
      | filesystem path access => exact ⟨fun h => (by cases h), fun h => (by cases h (.network [] 0) rfl)⟩
    | host pattern port =>
      have ⟨host, hh⟩ := pattern_covers_one pattern
      have ⟨used, hu⟩ := port_covers_one port
      have witness : Grant.covers (.host pattern port) (.network host used) = true := and_iff.2 ⟨hh, hu⟩
      cases large with
      | network =>
        exact ⟨fun _ item h => by
          cases item with
          | network _ _ => rfl
          | _ => (cases h), fun _ => rfl⟩
      | host pattern' port' =>
        exact ⟨fun h item hc => by
          have h := and_iff.1 h
          cases item with
          | network host' used' =>
            have hc := and_iff.1 hc
            exact and_iff.2 ⟨pattern_le_iff.1 h.1 _ hc.1, port_le_iff.1 h.2 _ hc.2⟩
          | _ => (cases hc),
        fun h => and_iff.2
          ⟨pattern_le_iff.2 fun host' h' => (and_iff.1 (h (.network host' used) (and_iff.2 ⟨h', hu⟩))).1,
          port_le_iff.2 fun used' h' => (and_iff.1 (h (.network host used') (and_iff.2 ⟨hh, h'⟩))).2⟩⟩
      | auth name => exact ⟨fun h => (by cases h), fun h => (by cases h _ witness)⟩
      | filesystem path access => exact ⟨fun h => (by cases h), fun h => (by cases h _ witness)⟩
    | auth name =>
      cases large with
      | auth name' =>
        exact ⟨fun h item hc => by
          cases item with
          | auth used => exact same_iff.2 ((same_iff.1 h).trans (same_iff.1 hc))
          | _ => (cases hc), fun h => h (.auth name) (same_self name)⟩
      | network => exact ⟨fun h => (by cases h), fun h => (by cases h (.auth name) (same_self name))⟩
      | host _ _ => exact ⟨fun h => (by cases h), fun h => (by cases h (.auth name) (same_self name))⟩
      | filesystem _ _ => exact ⟨fun h => (by cases h), fun h => (by cases h (.auth name) (same_self name))⟩
    | filesystem path access =>
      have witness : Grant.covers (.filesystem path access) (.filesystem path access) = true :=
        and_iff.2 ⟨isUnder_refl path, access_covers_self access⟩
      cases large with
      | filesystem path' access' =>
        exact ⟨fun h item hc => by
          have h := and_iff.1 h
          cases item with
          | filesystem used mode =>
            have hc := and_iff.1 hc
            exact and_iff.2 ⟨under_le_iff.1 h.1 _ hc.1, access_le_iff.1 h.2 _ hc.2⟩
          | _ => (cases hc), fun h => h (.filesystem path access) witness⟩
      | network => exact ⟨fun h => (by cases h), fun h => (by cases h _ witness)⟩
      | host _ _ => exact ⟨fun h => (by cases h), fun h => (by cases h _ witness)⟩
      | auth _ => exact ⟨fun h => (by cases h), fun h => (by cases h _ witness)⟩
  exact ⟨fun h item hc => grant_covers_iff.1 (semantic.1 h item (grant_covers_iff.2 hc)),
    fun h => semantic.2 fun item hc => grant_covers_iff.2 (h item (grant_covers_iff.1 hc))⟩

theorem grant_le_refl (grant : Grant) : grant.le grant = true := grant_le_iff.2 fun _ h => h

theorem grant_le_trans {a b c : Grant} (h : a.le b = true) (h' : b.le c = true) : a.le c = true :=
  grant_le_iff.2 fun item hc => grant_le_iff.1 h' item (grant_le_iff.1 h item hc)

/-! ## Quantities -/

theorem larger_left (m n : Nat) : m ≤ larger m n := by
  cases h : Nat.ble m n with
  | true => rw [larger, bif_true h]; exact ble_iff.1 h
  | false => rw [larger, bif_false h]; exact Nat.le_refl m

theorem larger_right (m n : Nat) : n ≤ larger m n := by
  cases h : Nat.ble m n with
  | true => rw [larger, bif_true h]; exact Nat.le_refl n
  | false =>
    rw [larger, bif_false h]
    exact (le_or_le m n).elim (fun h' => absurd (ble_iff.2 h') (ne_true_of_eq_false h)) id

theorem larger_least {m n k : Nat} (h : m ≤ k) (h' : n ≤ k) : larger m n ≤ k := by
  cases hb : Nat.ble m n with
  | true => rw [larger, bif_true hb]; exact h'
  | false => rw [larger, bif_false hb]; exact h

theorem smaller_left (m n : Nat) : smaller m n ≤ m := by
  cases h : Nat.ble m n with
  | true => rw [smaller, bif_true h]; exact Nat.le_refl m
  | false =>
    rw [smaller, bif_false h]
    exact (le_or_le m n).elim (fun h' => absurd (ble_iff.2 h') (ne_true_of_eq_false h)) id

theorem smaller_right (m n : Nat) : smaller m n ≤ n := by
  cases h : Nat.ble m n with
  | true => rw [smaller, bif_true h]; exact ble_iff.1 h
  | false => rw [smaller, bif_false h]; exact Nat.le_refl n

theorem smaller_greatest {m n k : Nat} (h : k ≤ m) (h' : k ≤ n) : k ≤ smaller m n := by
  cases hb : Nat.ble m n with
  | true => rw [smaller, bif_true hb]; exact h
  | false => rw [smaller, bif_false hb]; exact h'

theorem smaller_comm (m n : Nat) : smaller m n = smaller n m :=
  le_antisymm (smaller_greatest (smaller_right m n) (smaller_left m n))
    (smaller_greatest (smaller_right n m) (smaller_left n m))

theorem smaller_assoc (a b c : Nat) : smaller (smaller a b) c = smaller a (smaller b c) :=
  le_antisymm
    (smaller_greatest (Nat.le_trans (smaller_left _ _) (smaller_left _ _))
      (smaller_greatest (Nat.le_trans (smaller_left _ _) (smaller_right _ _)) (smaller_right _ _)))
    (smaller_greatest (smaller_greatest (smaller_left _ _) (Nat.le_trans (smaller_right _ _) (smaller_left _ _)))
      (Nat.le_trans (smaller_right _ _) (smaller_right _ _)))

theorem gpu_covers_trans {a b c : Gpu} (h : b.covers a = true) (h' : c.covers b = true) : c.covers a = true :=
  have h := gpu_covers_iff.1 h
  have h' := gpu_covers_iff.1 h'
  gpu_covers_iff.2 ⟨Nat.le_trans h.1 h'.1, Nat.le_trans h'.2.1 h.2.1, Nat.le_trans h'.2.2 h.2.2⟩

theorem gpu_le_refl (a : Option Gpu) : gpuLe a a = true := by
  cases a with
  | none => rfl
  | some a => exact gpu_covers_iff.2 ⟨Nat.le_refl _, Nat.le_refl _, Nat.le_refl _⟩

theorem gpu_le_trans {a b c : Option Gpu} (h : gpuLe a b = true) (h' : gpuLe b c = true) : gpuLe a c = true := by
  cases a with
  | none => rfl
  | some a =>
    cases b with
    | none => cases h
    | some b =>
      cases c with
      | none => cases h'
      | some c => exact gpu_covers_trans h h'

theorem gpu_join_left (a b : Option Gpu) : gpuLe a (combine Gpu.join a b) = true := by
  cases a with
  | none => rfl
  | some a =>
    cases b with
    | none => exact gpu_le_refl (some a)
    | some b => exact gpu_covers_iff.2 ⟨larger_left _ _, smaller_left _ _, smaller_left _ _⟩

theorem gpu_join_right (a b : Option Gpu) : gpuLe b (combine Gpu.join a b) = true := by
  cases a with
  | none => exact gpu_le_refl b
  | some a =>
    cases b with
    | none => rfl
    | some b => exact gpu_covers_iff.2 ⟨larger_right _ _, smaller_right _ _, smaller_right _ _⟩

theorem gpu_join_least {a b c : Option Gpu} (h : gpuLe a c = true) (h' : gpuLe b c = true) :
    gpuLe (combine Gpu.join a b) c = true := by
  cases a with
  | none => exact h'
  | some a =>
    cases b with
    | none => exact h
    | some b =>
      cases c with
      | none => cases h
      | some c =>
        have h := gpu_covers_iff.1 h
        have h' := gpu_covers_iff.1 h'
        exact gpu_covers_iff.2 ⟨larger_least h.1 h'.1, smaller_greatest h.2.1 h'.2.1, smaller_greatest h.2.2 h'.2.2⟩

/-- Two leases that are covered apart are, held at the same time, covered by the sum. -/
theorem gpu_parallel_covers {a b : Option Gpu} {used used' : Gpu} (h : gpuLe (some used) a = true)
    (h' : gpuLe (some used') b = true) : gpuLe (some (used.parallel used')) (combine Gpu.parallel a b) = true := by
  cases a with
  | none => cases h
  | some a =>
    cases b with
    | none => cases h'
    | some b =>
      have h := gpu_covers_iff.1 h
      have h' := gpu_covers_iff.1 h'
      exact gpu_covers_iff.2 ⟨add_le_add h.1 h'.1,
        smaller_greatest (Nat.le_trans (smaller_left _ _) h.2.1) (Nat.le_trans (smaller_right _ _) h'.2.1),
        smaller_greatest (Nat.le_trans (smaller_left _ _) h.2.2) (Nat.le_trans (smaller_right _ _) h'.2.2)⟩

theorem gpu_join_le_parallel (a b : Option Gpu) : gpuLe (combine Gpu.join a b) (combine Gpu.parallel a b) = true := by
  cases a with
  | none => exact gpu_le_refl b
  | some a =>
    cases b with
    | none => exact gpu_le_refl (some a)
    | some b =>
      refine gpu_covers_iff.2 ⟨larger_least (le_add _ _) ?_, Nat.le_refl _, Nat.le_refl _⟩
      show b.count ≤ a.count + b.count
      rw [add_comm]
      exact le_add _ _

theorem gpu_parallel_mono {a b c d : Option Gpu} (h : gpuLe a c = true) (h' : gpuLe b d = true) :
    gpuLe (combine Gpu.parallel a b) (combine Gpu.parallel c d) = true := by
  cases a with
  | none => exact gpu_le_trans h' (gpu_le_trans (gpu_join_right c d) (gpu_join_le_parallel c d))
  | some a =>
    cases b with
    | none => exact gpu_le_trans h (gpu_le_trans (gpu_join_left c d) (gpu_join_le_parallel c d))
    | some b => exact gpu_parallel_covers h h'

theorem gpu_parallel_comm (a b : Option Gpu) : combine Gpu.parallel a b = combine Gpu.parallel b a := by
  cases a with
  | none => cases b <;> rfl
  | some a =>
    cases b with
    | none => rfl
    | some b =>
      show some (Gpu.mk _ _ _) = some (Gpu.mk _ _ _)
      rw [add_comm a.count, smaller_comm a.memory, smaller_comm a.sm]

theorem gpu_parallel_assoc (a b c : Option Gpu) :
    combine Gpu.parallel (combine Gpu.parallel a b) c = combine Gpu.parallel a (combine Gpu.parallel b c) := by
  cases a with
  | none => rfl
  | some a =>
    cases b with
    | none => rfl
    | some b =>
      cases c with
      | none => rfl
      | some c =>
        show some (Gpu.mk (a.count + b.count + c.count) (smaller (smaller a.memory b.memory) c.memory)
            (smaller (smaller a.sm b.sm) c.sm)) = some (Gpu.mk _ _ _)
        rw [add_assoc, smaller_assoc, smaller_assoc]
        rfl

/-! ## Sandboxes -/

theorem sandboxes_le_iff {small large : Sandboxes} :
    small.le large = true ↔ ∀ kind, small.covers kind = true → large.covers kind = true :=
  ⟨fun h kind => by
    have h := and_iff.1 h
    have h' := and_iff.1 h.1
    cases kind with
    | wasm => exact implies_iff.1 h'.1
    | namespaces => exact implies_iff.1 h'.2
    | microvm => exact implies_iff.1 h.2,
  fun h => and_iff.2 ⟨and_iff.2 ⟨implies_iff.2 (h .wasm), implies_iff.2 (h .namespaces)⟩, implies_iff.2 (h .microvm)⟩⟩

theorem sandboxes_join_iff {a b : Sandboxes} {kind : Sandbox} :
    (a.join b).covers kind = true ↔ a.covers kind = true ∨ b.covers kind = true := by
  cases kind <;> exact or_iff

/-! ## Sets of grants -/

theorem mem_filter {p : Grant → Bool} {x : Grant} : ∀ {l : List Grant}, x ∈ l.filter p ↔ x ∈ l ∧ p x = true
  | [] => ⟨fun h => absurd h not_mem_nil, fun h => absurd h.1 not_mem_nil⟩
  | y :: l => by
    cases hp : p y with
    | true =>
      rw [show (y :: l).filter p = y :: l.filter p by rw [List.filter, hp]]
      exact ⟨fun h => (mem_cons.1 h).elim (fun e => ⟨e ▸ List.Mem.head l, e ▸ hp⟩) fun h =>
          ⟨List.Mem.tail y (mem_filter.1 h).1, (mem_filter.1 h).2⟩,
        fun h => mem_cons.2 ((mem_cons.1 h.1).elim Or.inl fun hm => Or.inr (mem_filter.2 ⟨hm, h.2⟩))⟩
    | false =>
      rw [show (y :: l).filter p = l.filter p by rw [List.filter, hp]]
      exact ⟨fun h => ⟨List.Mem.tail y (mem_filter.1 h).1, (mem_filter.1 h).2⟩, fun h => mem_filter.2
        ⟨(mem_cons.1 h.1).elim (fun e => absurd h.2 (e ▸ ne_true_of_eq_false hp)) id, h.2⟩⟩

theorem insert_keeps {grants : List Grant} {grant x : Grant} (h : x ∈ grants) :
    ∃ y, y ∈ insert grants grant ∧ x.le y = true := by
  cases hb : grants.any fun other => grant.le other with
  | true => rw [insert, bif_true hb]; exact ⟨x, h, grant_le_refl x⟩
  | false =>
    rw [insert, bif_false hb]
    cases hl : x.le grant with
    | true => exact ⟨grant, List.Mem.head _, hl⟩
    | false => exact ⟨x, List.Mem.tail _ (mem_filter.2 ⟨h, not_iff.2 hl⟩), grant_le_refl x⟩

theorem insert_covers (grants : List Grant) (grant : Grant) : ∃ x, x ∈ insert grants grant ∧ grant.le x = true := by
  cases hb : grants.any fun other => grant.le other with
  | true => rw [insert, bif_true hb]; exact any_iff.1 hb
  | false => rw [insert, bif_false hb]; exact ⟨grant, List.Mem.head _, grant_le_refl grant⟩

theorem insert_from {grants : List Grant} {grant x : Grant} (h : x ∈ insert grants grant) : x ∈ grants ∨ x = grant := by
  cases hb : grants.any fun other => grant.le other with
  | true => rw [insert, bif_true hb] at h; exact Or.inl h
  | false => rw [insert, bif_false hb] at h; exact (mem_cons.1 h).elim Or.inr fun h => Or.inl (mem_filter.1 h).1

theorem union_left {x : Grant} : ∀ {b a : List Grant}, x ∈ a → ∃ y, y ∈ union a b ∧ x.le y = true
  | [], _, h => ⟨x, h, grant_le_refl x⟩
  | _ :: b, _, h =>
    have ⟨_, hy, hl⟩ := insert_keeps h
    have ⟨z, hz, hl'⟩ := union_left (b := b) hy
    ⟨z, hz, grant_le_trans hl hl'⟩

theorem union_right {x : Grant} : ∀ {b a : List Grant}, x ∈ b → ∃ y, y ∈ union a b ∧ x.le y = true
  | [], _, h => absurd h not_mem_nil
  | _ :: b, a, h => by
    cases h with
    | head =>
      have ⟨_, hy, hl⟩ := insert_covers a x
      have ⟨z, hz, hl'⟩ := union_left (b := b) hy
      exact ⟨z, hz, grant_le_trans hl hl'⟩
    | tail _ h => exact union_right (b := b) h

theorem union_from {x : Grant} : ∀ {b a : List Grant}, x ∈ union a b → x ∈ a ∨ x ∈ b
  | [], _, h => Or.inl h
  | g :: b, _, h => (union_from (b := b) h).elim
      (fun h => (insert_from h).elim Or.inl fun h => Or.inr (h ▸ List.Mem.head b))
      fun h => Or.inr (List.Mem.tail g h)

/-! ## Declarations -/

theorem declaration_le_iff {small large : Declaration} :
    small.le large = true ↔
      (∀ grant, grant ∈ small.grants → ∃ other, other ∈ large.grants ∧ grant.le other = true)
        ∧ gpuLe small.gpu large.gpu = true ∧ small.sandboxes.le large.sandboxes = true :=
  ⟨fun h =>
    have h := and_iff.1 h
    have h' := and_iff.1 h.1
    ⟨fun grant hg => any_iff.1 (all_iff.1 h'.1 grant hg), h'.2, h.2⟩,
  fun h => and_iff.2 ⟨and_iff.2 ⟨all_iff.2 fun grant hg => any_iff.2 (h.1 grant hg), h.2.1⟩, h.2.2⟩⟩

/-- Entailment is reflexive. -/
theorem declaration_le_refl (a : Declaration) : a.le a = true :=
  declaration_le_iff.2 ⟨fun grant h => ⟨grant, h, grant_le_refl grant⟩, gpu_le_refl a.gpu,
    sandboxes_le_iff.2 fun _ h => h⟩

/-- Entailment is transitive. -/
theorem declaration_le_trans {a b c : Declaration} (h : a.le b = true) (h' : b.le c = true) : a.le c = true :=
  have h := declaration_le_iff.1 h
  have h' := declaration_le_iff.1 h'
  declaration_le_iff.2
    ⟨fun grant hg =>
      have ⟨other, ho, hl⟩ := h.1 grant hg
      have ⟨another, ha, hl'⟩ := h'.1 other ho
      ⟨another, ha, grant_le_trans hl hl'⟩,
    gpu_le_trans h.2.1 h'.2.1,
    sandboxes_le_iff.2 fun kind hk => sandboxes_le_iff.1 h'.2.2 kind (sandboxes_le_iff.1 h.2.2 kind hk)⟩

/-- What a declaration covers, every larger one covers. -/
theorem larger_declaration_covers_more {small large : Declaration} (h : small.le large = true) {item : Item}
    (hc : small.Covers item) : large.Covers item := by
  have h := declaration_le_iff.1 h
  have some_grant (hc : ∃ grant, grant ∈ small.grants ∧ Covers grant item) :
      ∃ grant, grant ∈ large.grants ∧ Covers grant item :=
    have ⟨grant, hg, hc⟩ := hc
    have ⟨other, ho, hl⟩ := h.1 grant hg
    ⟨other, ho, grant_le_iff.1 hl item hc⟩
  cases item with
  | gpu used =>
    exact declaration_covers_iff.1 (gpu_le_trans (declaration_covers_iff.2 hc : gpuLe (some used) small.gpu = true) h.2.1)
  | sandbox kind => exact sandboxes_le_iff.1 h.2.2 kind hc
  | network _ _ => exact some_grant hc
  | auth _ => exact some_grant hc
  | filesystem _ _ => exact some_grant hc

theorem join_left (a b : Declaration) : a.le (a.join b) = true :=
  declaration_le_iff.2 ⟨fun _ h => union_left h, gpu_join_left a.gpu b.gpu,
    sandboxes_le_iff.2 fun _ h => sandboxes_join_iff.2 (Or.inl h)⟩

theorem join_right (a b : Declaration) : b.le (a.join b) = true :=
  declaration_le_iff.2 ⟨fun _ h => union_right h, gpu_join_right a.gpu b.gpu,
    sandboxes_le_iff.2 fun _ h => sandboxes_join_iff.2 (Or.inr h)⟩

/-- `join` is the least upper bound. -/
theorem join_least {a b c : Declaration} (h : a.le c = true) (h' : b.le c = true) : (a.join b).le c = true :=
  have h := declaration_le_iff.1 h
  have h' := declaration_le_iff.1 h'
  declaration_le_iff.2 ⟨fun grant hg => (union_from hg).elim (h.1 grant) (h'.1 grant), gpu_join_least h.2.1 h'.2.1,
    sandboxes_le_iff.2 fun kind hk => (sandboxes_join_iff.1 hk).elim (sandboxes_le_iff.1 h.2.2 kind)
      (sandboxes_le_iff.1 h'.2.2 kind)⟩

/-- `nothing` is below everything. -/
theorem nothing_least (a : Declaration) : Declaration.nothing.le a = true :=
  declaration_le_iff.2 ⟨fun _ h => absurd h not_mem_nil, rfl, sandboxes_le_iff.2 fun kind h => by cases kind <;> cases h⟩

/-- Entailment both ways. -/
def Declaration.Equivalent (a b : Declaration) : Prop := a.le b = true ∧ b.le a = true

theorem join_comm (a b : Declaration) : (a.join b).Equivalent (b.join a) :=
  ⟨join_least (join_right b a) (join_left b a), join_least (join_right a b) (join_left a b)⟩

theorem join_assoc (a b c : Declaration) : ((a.join b).join c).Equivalent (a.join (b.join c)) :=
  ⟨join_least
      (join_least (join_left _ _) (declaration_le_trans (join_left b c) (join_right _ _)))
      (declaration_le_trans (join_right b c) (join_right _ _)),
    join_least (declaration_le_trans (join_left a b) (join_left _ _))
      (join_least (declaration_le_trans (join_right a b) (join_left _ _)) (join_right _ _))⟩

theorem join_idempotent (a : Declaration) : (a.join a).Equivalent a :=
  ⟨join_least (declaration_le_refl a) (declaration_le_refl a), join_left a a⟩

theorem join_nothing (a : Declaration) : (a.join .nothing).Equivalent a :=
  ⟨join_least (declaration_le_refl a) (nothing_least a), join_left a .nothing⟩

theorem join_mono {a b c d : Declaration} (h : a.le c = true) (h' : b.le d = true) : (a.join b).le (c.join d) = true :=
  join_least (declaration_le_trans h (join_left c d)) (declaration_le_trans h' (join_right c d))

/-- Needs at the same time are at least needs one after the other. -/
theorem join_le_parallel (a b : Declaration) : (a.join b).le (a.parallel b) = true :=
  declaration_le_iff.2 ⟨fun grant h => ⟨grant, h, grant_le_refl grant⟩, gpu_join_le_parallel a.gpu b.gpu,
    sandboxes_le_iff.2 fun _ h => h⟩

/-- But for the GPUs, `parallel` is `join`. -/
theorem parallel_le_of_join_le {a b : Declaration} {c : Declaration} (h : (a.join b).le c = true)
    (hg : gpuLe (combine Gpu.parallel a.gpu b.gpu) c.gpu = true) : (a.parallel b).le c = true :=
  have h := declaration_le_iff.1 h
  declaration_le_iff.2 ⟨h.1, hg, h.2.2⟩

theorem parallel_mono {a b c d : Declaration} (h : a.le c = true) (h' : b.le d = true) :
    (a.parallel b).le (c.parallel d) = true :=
  parallel_le_of_join_le (declaration_le_trans (join_mono h h') (join_le_parallel c d))
    (gpu_parallel_mono (declaration_le_iff.1 h).2.1 (declaration_le_iff.1 h').2.1)

theorem parallel_comm (a b : Declaration) : (a.parallel b).Equivalent (b.parallel a) :=
  have one (a b : Declaration) : (a.parallel b).le (b.parallel a) = true :=
    parallel_le_of_join_le (declaration_le_trans (join_comm a b).1 (join_le_parallel b a))
      (gpu_parallel_comm a.gpu b.gpu ▸ gpu_le_refl _)
  ⟨one a b, one b a⟩

theorem parallel_left (a b : Declaration) : a.le (a.parallel b) = true :=
  declaration_le_trans (join_left a b) (join_le_parallel a b)

theorem parallel_right (a b : Declaration) : b.le (a.parallel b) = true :=
  declaration_le_trans (join_right a b) (join_le_parallel a b)

theorem parallel_assoc (a b c : Declaration) : ((a.parallel b).parallel c).Equivalent (a.parallel (b.parallel c)) :=
  have equal : combine Gpu.parallel (a.parallel b).gpu c.gpu = combine Gpu.parallel a.gpu (b.parallel c).gpu :=
    gpu_parallel_assoc a.gpu b.gpu c.gpu
  have le_right {d : Declaration} (h : a.le d = true) (h' : b.le d = true)
      (hg : gpuLe (combine Gpu.parallel a.gpu b.gpu) d.gpu = true) : (a.parallel b).le d = true :=
    parallel_le_of_join_le (join_least h h') hg
  have le_left {d : Declaration} (h : b.le d = true) (h' : c.le d = true)
      (hg : gpuLe (combine Gpu.parallel b.gpu c.gpu) d.gpu = true) : (b.parallel c).le d = true :=
    parallel_le_of_join_le (join_least h h') hg
  have within : gpuLe (combine Gpu.parallel a.gpu b.gpu) (a.parallel (b.parallel c)).gpu = true :=
    gpu_parallel_mono (gpu_le_refl a.gpu) (declaration_le_iff.1 (parallel_left b c)).2.1
  have within' : gpuLe (combine Gpu.parallel b.gpu c.gpu) ((a.parallel b).parallel c).gpu = true :=
    gpu_parallel_mono (declaration_le_iff.1 (parallel_right a b)).2.1 (gpu_le_refl c.gpu)
  ⟨parallel_le_of_join_le
      (join_least (le_right (parallel_left _ _) (declaration_le_trans (parallel_left b c) (parallel_right _ _)) within)
        (declaration_le_trans (parallel_right b c) (parallel_right _ _)))
      (by rw [equal]; exact gpu_le_refl _),
    parallel_le_of_join_le
      (join_least (declaration_le_trans (parallel_left a b) (parallel_left _ _))
        (le_left (declaration_le_trans (parallel_right a b) (parallel_left _ _)) (parallel_right _ _) within'))
      (by rw [← equal]; exact gpu_le_refl _)⟩

theorem parallel_nothing (a : Declaration) : (a.parallel .nothing).Equivalent a := by
  refine ⟨parallel_le_of_join_le (join_nothing a).1 ?_, parallel_left a .nothing⟩
  cases a with
  | mk grants gpu sandboxes => cases gpu <;> exact gpu_le_refl _

end Coeffect
