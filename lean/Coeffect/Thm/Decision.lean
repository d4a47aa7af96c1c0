import Coeffect.Thm.Algebra

/-!
# The decision

About `check`, the function that is executed: from bytes to a verdict.
-/
namespace Coeffect

/-! ## The items that are left -/

theorem mem_uncoveredFrom {declared : Declaration} {x : Item} : ∀ {items found : List Item},
    x ∈ uncoveredFrom declared found items ↔ x ∈ found ∨ (x ∈ items ∧ declared.covers x = false)
  | [], _ => ⟨fun h => Or.inl (mem_reverse.1 h), fun h => mem_reverse.2 (h.elim id fun h => absurd h.1 not_mem_nil)⟩
  | item :: items, found => by
    show x ∈ uncoveredFrom declared (bif declared.covers item then found else item :: found) items ↔ _
    cases hc : declared.covers item with
    | true =>
      rw [bif_true rfl]
      exact ⟨fun h => (mem_uncoveredFrom.1 h).elim Or.inl fun h => Or.inr ⟨List.Mem.tail item h.1, h.2⟩,
        fun h => mem_uncoveredFrom.2 (h.elim Or.inl fun h => (mem_cons.1 h.1).elim
          (fun e => absurd (e ▸ hc) (by rw [h.2]; exact fun h => (by cases h))) fun hm => Or.inr ⟨hm, h.2⟩)⟩
    | false =>
      rw [bif_false rfl]
      exact ⟨fun h => (mem_uncoveredFrom.1 h).elim
          (fun h => (mem_cons.1 h).elim (fun e => Or.inr ⟨e ▸ List.Mem.head items, e ▸ hc⟩) Or.inl)
          fun h => Or.inr ⟨List.Mem.tail item h.1, h.2⟩,
        fun h => mem_uncoveredFrom.2 (h.elim (fun h => Or.inl (List.Mem.tail item h)) fun h =>
          (mem_cons.1 h.1).elim (fun e => Or.inl (e ▸ List.Mem.head found)) fun hm => Or.inr ⟨hm, h.2⟩)⟩

/-- What is reported is exactly what is not covered. -/
theorem mem_uncovered {declared : Declaration} {items : List Item} {item : Item} :
    item ∈ uncovered declared items ↔ item ∈ items ∧ declared.covers item = false :=
  ⟨fun h => (mem_uncoveredFrom.1 h).elim (fun h => absurd h not_mem_nil) id, fun h => mem_uncoveredFrom.2 (Or.inr h)⟩

theorem uncovered_nil_iff {declared : Declaration} {items : List Item} :
    uncovered declared items = [] ↔ ∀ item, item ∈ items → declared.Covers item :=
  ⟨fun h item hi => declaration_covers_iff.1 (by
    cases hc : declared.covers item with
    | true => rfl
    | false =>
      have hm := mem_uncovered.2 ⟨hi, hc⟩
      rw [h] at hm
      exact absurd hm not_mem_nil),
  fun h => by
    cases hu : uncovered declared items with
    | nil => rfl
    | cons item more =>
      have hm : item ∈ uncovered declared items := by rw [hu]; exact List.Mem.head more
      have hm := mem_uncovered.1 hm
      exact absurd (declaration_covers_iff.2 (h item hm.1)) (ne_true_of_eq_false hm.2)⟩

theorem judge_approves_iff {declared : Declaration} {items : List Item} :
    judge declared items = .approve ↔ ∀ item, item ∈ items → declared.Covers item := by
  refine Iff.trans ?_ uncovered_nil_iff
  show (match uncovered declared items with
    | [] => Verdict.approve
    | item :: more => .reject (.uncovered item) (more.map .uncovered)) = .approve ↔ _
  cases uncovered declared items with
  | nil => exact ⟨fun _ => rfl, fun _ => rfl⟩
  | cons item more => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩

/-! ## From bytes to the verdict -/

/-- `check` approves exactly when both documents parse and every item is covered. -/
theorem check_approves_iff {declaration evidence : Bytes} :
    check declaration evidence = .approve ↔
      ∃ declared used, parseDeclaration declaration = .ok declared ∧ parseEvidence evidence = .ok used
        ∧ ∀ item, item ∈ used.items → declared.Covers item := by
  show conclude (parseDeclaration declaration) (parseEvidence evidence) = .approve ↔ _
  cases parseDeclaration declaration with
  | error fault => exact ⟨fun h => (by cases h), fun ⟨_, _, h, _⟩ => (by cases h)⟩
  | ok declared =>
    cases parseEvidence evidence with
    | error found => exact ⟨fun h => (by cases h), fun ⟨_, _, _, h, _⟩ => (by cases h)⟩
    | ok used =>
      exact ⟨fun h => ⟨declared, used, rfl, rfl, judge_approves_iff.1 h⟩, fun ⟨_, _, hd, hu, h⟩ => by
        cases hd
        cases hu
        exact judge_approves_iff.2 h⟩

/-- **Soundness.** Whatever is approved was well formed, and every item of it is covered by what was declared. -/
theorem soundness {declaration evidence : Bytes} (h : check declaration evidence = .approve) :
    ∃ declared used, parseDeclaration declaration = .ok declared ∧ parseEvidence evidence = .ok used
      ∧ ∀ item, item ∈ used.items → declared.Covers item :=
  check_approves_iff.1 h

/-- **Completeness.** Well-formed documents of which the one covers the other are approved. -/
theorem completeness {declaration evidence : Bytes} {declared : Declaration} {used : Evidence}
    (hd : parseDeclaration declaration = .ok declared) (hu : parseEvidence evidence = .ok used)
    (h : ∀ item, item ∈ used.items → declared.Covers item) : check declaration evidence = .approve :=
  check_approves_iff.2 ⟨declared, used, hd, hu, h⟩

/-- **Monotonicity, of the declaration.** Granting more keeps an approval. -/
theorem granting_more_keeps_approval {declaration larger evidence : Bytes} {declared more : Declaration}
    (hd : parseDeclaration declaration = .ok declared) (hm : parseDeclaration larger = .ok more)
    (hl : declared.le more = true) (h : check declaration evidence = .approve) : check larger evidence = .approve := by
  have ⟨declared', used, hd', hu, hc⟩ := check_approves_iff.1 h
  rw [hd] at hd'
  cases hd'
  exact check_approves_iff.2 ⟨more, used, hm, hu, fun item hi => larger_declaration_covers_more hl (hc item hi)⟩

/-- **Monotonicity, of the evidence.** Using less keeps an approval; so using more never turns a rejection into one. -/
theorem using_less_keeps_approval {declaration evidence smaller : Bytes} {used less : Evidence}
    (hu : parseEvidence evidence = .ok used) (hl : parseEvidence smaller = .ok less)
    (hs : ∀ item, item ∈ less.items → item ∈ used.items) (h : check declaration evidence = .approve) :
    check declaration smaller = .approve := by
  have ⟨declared, used', hd, hu', hc⟩ := check_approves_iff.1 h
  rw [hu] at hu'
  cases hu'
  exact check_approves_iff.2 ⟨declared, less, hd, hl, fun item hi => hc item (hs item hi)⟩

/-- **Independence of order and repetition.** Evidence with the same items, in whatever order and how often ever, gets
an approval from the same declarations. -/
theorem order_and_repetition_do_not_matter {declaration evidence other : Bytes} {used used' : Evidence}
    (hu : parseEvidence evidence = .ok used) (ho : parseEvidence other = .ok used')
    (same : ∀ item, item ∈ used.items ↔ item ∈ used'.items) :
    check declaration evidence = .approve ↔ check declaration other = .approve :=
  ⟨using_less_keeps_approval hu ho fun item h => (same item).2 h,
    using_less_keeps_approval ho hu fun item h => (same item).1 h⟩

/-- **Composition.** What is approved one by one is approved together, one after the other or at the same time. -/
theorem composition {d₁ d₂ : Declaration} {e₁ e₂ : List Item} (h₁ : judge d₁ e₁ = .approve) (h₂ : judge d₂ e₂ = .approve) :
    judge (d₁.join d₂) (e₁ ++ e₂) = .approve ∧ judge (d₁.parallel d₂) (e₁ ++ e₂) = .approve :=
  have covered (d : Declaration) (hl₁ : d₁.le d = true) (hl₂ : d₂.le d = true) : judge d (e₁ ++ e₂) = .approve :=
    judge_approves_iff.2 fun item hi => (mem_append.1 hi).elim
      (fun hi => larger_declaration_covers_more hl₁ (judge_approves_iff.1 h₁ item hi))
      fun hi => larger_declaration_covers_more hl₂ (judge_approves_iff.1 h₂ item hi)
  ⟨covered _ (join_left d₁ d₂) (join_right d₁ d₂), covered _ (parallel_left d₁ d₂) (parallel_right d₁ d₂)⟩

/-- At the same time, also the devices that both hold together are covered. -/
theorem composition_of_leases {d₁ d₂ : Declaration} {g₁ g₂ : Gpu} (h₁ : judge d₁ [.gpu g₁] = .approve)
    (h₂ : judge d₂ [.gpu g₂] = .approve) : judge (d₁.parallel d₂) [.gpu (g₁.parallel g₂)] = .approve :=
  judge_approves_iff.2 fun item hi => by
    cases (mem_cons.1 hi) with
    | inr hi => exact absurd hi not_mem_nil
    | inl e =>
      rw [e]
      have c₁ := declaration_covers_iff.2 (judge_approves_iff.1 h₁ _ (List.Mem.head []))
      have c₂ := declaration_covers_iff.2 (judge_approves_iff.1 h₂ _ (List.Mem.head []))
      exact declaration_covers_iff.1 (gpu_parallel_covers (a := d₁.gpu) (b := d₂.gpu) c₁ c₂)

/-- **Fail closed.** What is no declaration, or no evidence, is never approved. -/
theorem malformed_is_rejected {declaration evidence : Bytes}
    (h : (∃ fault, parseDeclaration declaration = .error fault) ∨ ∃ fault, parseEvidence evidence = .error fault) :
    check declaration evidence ≠ .approve := fun ha => by
  have ⟨_, _, hd, hu, _⟩ := check_approves_iff.1 ha
  cases h with
  | inl h =>
    have ⟨fault, h⟩ := h
    rw [h] at hd
    cases hd
  | inr h =>
    have ⟨fault, h⟩ := h
    rw [h] at hu
    cases hu

/-- **Totality.** `check` is a total function, so it always answers; the same answer for the same bytes; and every
rejection carries a reason. -/
theorem check_answers (declaration evidence : Bytes) :
    check declaration evidence = .approve ∨ ∃ reason more, check declaration evidence = .reject reason more := by
  cases check declaration evidence with
  | approve => exact Or.inl rfl
  | reject reason more => exact Or.inr ⟨reason, more, rfl⟩

/-! ## What is inferred -/

/-- The need of an item is below exactly those declarations that cover it. -/
theorem need_le_iff {item : Item} {declared : Declaration} :
    (need item).le declared = true ↔ declared.covers item = true := by
  have by_grant (grant : Grant) (equal : ∀ other : Grant, grant.le other = other.covers item) :
      Declaration.le ⟨[grant], none, .none⟩ declared = true
        ↔ (declared.grants.any fun other => other.covers item) = true :=
    ⟨fun h =>
      have ⟨other, ho, hl⟩ := (declaration_le_iff.1 h).1 grant (List.Mem.head [])
      any_iff.2 ⟨other, ho, equal other ▸ hl⟩,
    fun h => declaration_le_iff.2 ⟨fun g hg => by
      cases mem_cons.1 hg with
      | inr hg => exact absurd hg not_mem_nil
      | inl e =>
        have ⟨other, ho, hc⟩ := any_iff.1 h
        exact ⟨other, ho, by rw [e, equal other]; exact hc⟩,
      rfl, (declaration_le_iff.1 (nothing_least declared)).2.2⟩⟩
  cases item with
  | network host port => exact by_grant _ fun other => by cases other with
    | host pattern on => cases on <;> rfl
    | _ => rfl
  | auth name => exact by_grant _ fun other => by cases other <;> rfl
  | filesystem path access => exact by_grant _ fun other => by cases other <;> rfl
  | gpu used =>
    exact ⟨fun h => (declaration_le_iff.1 h).2.1, fun h => declaration_le_iff.2
      ⟨fun _ hg => absurd hg not_mem_nil, h, (declaration_le_iff.1 (nothing_least declared)).2.2⟩⟩
  | sandbox kind =>
    exact ⟨fun h => sandboxes_le_iff.1 (declaration_le_iff.1 h).2.2 kind (by cases kind <;> rfl),
      fun h => declaration_le_iff.2 ⟨fun _ hg => absurd hg not_mem_nil, rfl, sandboxes_le_iff.2 fun other ho => by
        cases kind <;> cases other <;> first | exact h | cases ho⟩⟩

theorem infer_from {declared : Declaration} : ∀ {items : List Item} {start : Declaration},
    (items.foldl (fun d item => d.join (need item)) start).le declared = true ↔
      start.le declared = true ∧ ∀ item, item ∈ items → declared.covers item = true
  | [], _ => ⟨fun h => ⟨h, fun _ hi => absurd hi not_mem_nil⟩, fun h => h.1⟩
  | item :: items, start =>
    ⟨fun h =>
      have h := (infer_from (items := items) (start := start.join (need item))).1 h
      ⟨declaration_le_trans (join_left start (need item)) h.1, fun x hx => (mem_cons.1 hx).elim
        (fun e => e ▸ need_le_iff.1 (declaration_le_trans (join_right start (need item)) h.1)) (h.2 x)⟩,
    fun h => (infer_from (items := items) (start := start.join (need item))).2 ⟨join_least h.1 (need_le_iff.2 (h.2 item (List.Mem.head items))), fun x hx =>
      h.2 x (List.Mem.tail item hx)⟩⟩

/-- **Leastness.** What is inferred is below exactly those declarations that cover all items: it covers them itself,
and nothing smaller does. -/
theorem infer_le_iff {items : List Item} {declared : Declaration} :
    (infer items).le declared = true ↔ ∀ item, item ∈ items → declared.Covers item :=
  ⟨fun h item hi => declaration_covers_iff.1 ((infer_from.1 h).2 item hi),
    fun h => infer_from.2 ⟨nothing_least declared, fun item hi => declaration_covers_iff.2 (h item hi)⟩⟩

theorem inferred_is_approved (items : List Item) : judge (infer items) items = .approve :=
  judge_approves_iff.2 (infer_le_iff.1 (declaration_le_refl _))

theorem inferred_is_least {items : List Item} {declared : Declaration} (h : judge declared items = .approve) :
    (infer items).le declared = true :=
  infer_le_iff.2 (judge_approves_iff.1 h)

end Coeffect
