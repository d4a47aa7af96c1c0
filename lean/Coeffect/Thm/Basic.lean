import Coeffect.Extract

/-!
# Basic facts

About Booleans, lists and the comparison of bytes; nothing that is special to coeffects.
-/
namespace Coeffect

/-! ## Booleans -/

theorem and_iff {a b : Bool} : (a && b) = true ↔ a = true ∧ b = true := by
  cases a with
  | false => exact ⟨fun h => ⟨h, (by cases h)⟩, fun h => h.1⟩
  | true => exact ⟨fun h => ⟨rfl, h⟩, fun h => h.2⟩

theorem or_iff {a b : Bool} : (a || b) = true ↔ a = true ∨ b = true := by
  cases a with
  | false => exact ⟨Or.inr, fun h => h.elim (fun h => by cases h) id⟩
  | true => exact ⟨fun _ => Or.inl rfl, fun _ => rfl⟩

theorem not_iff {a : Bool} : (!a) = true ↔ a = false := by
  cases a with
  | false => exact ⟨fun _ => rfl, fun _ => rfl⟩
  | true => exact ⟨fun h => (by cases h), fun h => (by cases h)⟩

theorem implies_iff {a b : Bool} : implies a b = true ↔ (a = true → b = true) := by
  cases a with
  | false => exact ⟨fun _ h => (by cases h), fun _ => rfl⟩
  | true => exact ⟨fun h _ => h, fun h => h rfl⟩

theorem eq_false_of_ne {a : Bool} (h : ¬ a = true) : a = false := by
  cases a with
  | false => rfl
  | true => exact absurd rfl h

theorem ne_true_of_eq_false {a : Bool} (h : a = false) : ¬ a = true := by
  intro h'
  rw [h] at h'
  cases h'

/-- Two Booleans are equal when each is true as soon as the other is. -/
theorem bool_ext {a b : Bool} (h : a = true ↔ b = true) : a = b := by
  cases b with
  | true => exact h.2 rfl
  | false => exact eq_false_of_ne fun ha => by cases h.1 ha

theorem bif_true {α : Type} {c : Bool} {a b : α} (h : c = true) : (bif c then a else b) = a := by
  rw [h]; rfl

theorem bif_false {α : Type} {c : Bool} {a b : α} (h : c = false) : (bif c then a else b) = b := by
  rw [h]; rfl

/-! ## Numbers -/

theorem beq_iff {m n : Nat} : (m == n) = true ↔ m = n := ⟨of_decide_eq_true, decide_eq_true⟩

theorem beq_self (n : Nat) : (n == n) = true := beq_iff.2 rfl

theorem ble_iff {m n : Nat} : Nat.ble m n = true ↔ m ≤ n := ⟨Nat.le_of_ble_eq_true, Nat.ble_eq_true_of_le⟩

theorem le_or_le : ∀ m n : Nat, m ≤ n ∨ n ≤ m
  | 0, n => Or.inl (Nat.zero_le n)
  | m + 1, 0 => Or.inr (Nat.zero_le (m + 1))
  | m + 1, n + 1 => (le_or_le m n).elim (fun h => Or.inl (Nat.succ_le_succ h)) fun h => Or.inr (Nat.succ_le_succ h)

theorem le_antisymm : ∀ {m n : Nat}, m ≤ n → n ≤ m → m = n
  | 0, 0, _, _ => rfl
  | m + 1, 0, h, _ => absurd h (Nat.not_succ_le_zero m)
  | 0, n + 1, _, h => absurd h (Nat.not_succ_le_zero n)
  | _ + 1, _ + 1, h, h' => congrArg Nat.succ (le_antisymm (Nat.le_of_succ_le_succ h) (Nat.le_of_succ_le_succ h'))

theorem add_le_add_right : ∀ {m n : Nat} (k : Nat), m ≤ n → m + k ≤ n + k
  | _, _, 0, h => h
  | _, _, k + 1, h => Nat.succ_le_succ (add_le_add_right k h)

theorem le_add (m : Nat) : ∀ n : Nat, m ≤ m + n
  | 0 => Nat.le_refl m
  | n + 1 => Nat.le_trans (le_add m n) (Nat.le.step Nat.le.refl)

theorem zero_add : ∀ n : Nat, 0 + n = n
  | 0 => rfl
  | n + 1 => congrArg Nat.succ (zero_add n)

theorem succ_add (m : Nat) : ∀ n : Nat, m + 1 + n = (m + n) + 1
  | 0 => rfl
  | n + 1 => congrArg Nat.succ (succ_add m n)

theorem add_comm (m : Nat) : ∀ n : Nat, m + n = n + m
  | 0 => (zero_add m).symm
  | n + 1 => (congrArg Nat.succ (add_comm m n)).trans (succ_add n m).symm

theorem add_assoc (a b : Nat) : ∀ c : Nat, a + b + c = a + (b + c)
  | 0 => rfl
  | c + 1 => congrArg Nat.succ (add_assoc a b c)

theorem add_le_add {a b c d : Nat} (h : a ≤ b) (h' : c ≤ d) : a + c ≤ b + d := by
  have h₁ := add_le_add_right c h
  have h₂ := add_le_add_right b h'
  rw [add_comm c b, add_comm d b] at h₂
  exact Nat.le_trans h₁ h₂

/-! ## Lists -/

theorem append_nil {α : Type} : ∀ l : List α, l ++ [] = l
  | [] => rfl
  | x :: xs => congrArg (x :: ·) (append_nil xs)

theorem append_assoc {α : Type} : ∀ a b c : List α, a ++ b ++ c = a ++ (b ++ c)
  | [], _, _ => rfl
  | x :: xs, b, c => congrArg (x :: ·) (append_assoc xs b c)

theorem reverseAux_eq {α : Type} : ∀ a b : List α, List.reverseAux a b = List.reverse a ++ b
  | [], _ => rfl
  | x :: xs, b => by
    show List.reverseAux xs (x :: b) = List.reverseAux xs [x] ++ b
    rw [reverseAux_eq xs (x :: b), reverseAux_eq xs [x], append_assoc]
    rfl

theorem reverse_cons {α : Type} (x : α) (xs : List α) : List.reverse (x :: xs) = List.reverse xs ++ [x] :=
  reverseAux_eq xs [x]

theorem reverse_append {α : Type} : ∀ a b : List α, List.reverse (a ++ b) = List.reverse b ++ List.reverse a
  | [], b => (append_nil _).symm
  | x :: xs, b => by
    show List.reverse (x :: (xs ++ b)) = _
    rw [reverse_cons, reverse_append xs b, reverse_cons, append_assoc]

theorem reverse_reverse {α : Type} : ∀ l : List α, List.reverse (List.reverse l) = l
  | [] => rfl
  | x :: xs => by
    rw [reverse_cons, reverse_append, reverse_reverse xs]
    rfl

theorem foldl_append {α β : Type} (f : α → β → α) : ∀ (init : α) (a b : List β),
    (a ++ b).foldl f init = b.foldl f (a.foldl f init)
  | _, [], _ => rfl
  | init, x :: xs, b => foldl_append f (f init x) xs b

theorem mem_append {α : Type} {x : α} : ∀ {a b : List α}, x ∈ a ++ b ↔ x ∈ a ∨ x ∈ b
  | [], _ => ⟨Or.inr, fun h => h.elim (fun h => by cases h) id⟩
  | y :: ys, b =>
    ⟨fun h => by
      cases h with
      | head => exact Or.inl (List.Mem.head ys)
      | tail _ h => exact (mem_append.1 h).elim (fun h => Or.inl (List.Mem.tail y h)) Or.inr,
    fun h => by
      cases h with
      | inl h =>
        cases h with
        | head => exact List.Mem.head (ys ++ b)
        | tail _ h => exact List.Mem.tail y (mem_append.2 (Or.inl h))
      | inr h => exact List.Mem.tail y (mem_append.2 (Or.inr h))⟩

theorem not_mem_nil {α : Type} {x : α} : ¬ x ∈ ([] : List α) := fun h => by cases h

theorem mem_cons {α : Type} {x y : α} {l : List α} : x ∈ y :: l ↔ x = y ∨ x ∈ l :=
  ⟨fun h => by
    cases h with
    | head => exact Or.inl rfl
    | tail _ h => exact Or.inr h,
  fun h => h.elim (fun h => h ▸ List.Mem.head l) (List.Mem.tail y)⟩

theorem mem_reverse {α : Type} {x : α} : ∀ {l : List α}, x ∈ l.reverse ↔ x ∈ l
  | [] => ⟨id, id⟩
  | y :: ys => by
    rw [reverse_cons]
    exact ⟨fun h => (mem_append.1 h).elim (fun h => List.Mem.tail y (mem_reverse.1 h)) fun h =>
        (mem_cons.1 h).elim (fun h => h ▸ List.Mem.head ys) fun h => absurd h not_mem_nil,
      fun h => mem_append.2 ((mem_cons.1 h).elim (fun h => Or.inr (h ▸ List.Mem.head [])) fun h =>
        Or.inl (mem_reverse.2 h))⟩

theorem all_iff {α : Type} {p : α → Bool} : ∀ {l : List α}, l.all p = true ↔ ∀ x, x ∈ l → p x = true
  | [] => ⟨fun _ _ h => absurd h not_mem_nil, fun _ => rfl⟩
  | y :: ys =>
    ⟨fun h x hx => (mem_cons.1 hx).elim (fun e => e ▸ (and_iff.1 h).1) (all_iff.1 (and_iff.1 h).2 x),
    fun h => and_iff.2 ⟨h y (List.Mem.head ys), all_iff.2 fun x hx => h x (List.Mem.tail y hx)⟩⟩

theorem any_iff {α : Type} {p : α → Bool} : ∀ {l : List α}, l.any p = true ↔ ∃ x, x ∈ l ∧ p x = true
  | [] => ⟨fun h => (by cases h), fun ⟨_, h, _⟩ => absurd h not_mem_nil⟩
  | y :: ys =>
    ⟨fun h => (or_iff.1 h).elim (fun h => ⟨y, List.Mem.head ys, h⟩) fun h =>
      match any_iff.1 h with
      | ⟨x, hx, hp⟩ => ⟨x, List.Mem.tail y hx, hp⟩,
    fun ⟨x, hx, hp⟩ => or_iff.2 ((mem_cons.1 hx).elim (fun e => Or.inl (e ▸ hp)) fun hx =>
      Or.inr (any_iff.2 ⟨x, hx, hp⟩))⟩

theorem all_append {α : Type} {p : α → Bool} (a b : List α) : (a ++ b).all p = (a.all p && b.all p) :=
  bool_ext ⟨fun h => and_iff.2 ⟨all_iff.2 fun x hx => all_iff.1 h x (mem_append.2 (Or.inl hx)),
      all_iff.2 fun x hx => all_iff.1 h x (mem_append.2 (Or.inr hx))⟩,
    fun h => all_iff.2 fun x hx => (mem_append.1 hx).elim (all_iff.1 (and_iff.1 h).1 x) (all_iff.1 (and_iff.1 h).2 x)⟩

/-! ## Comparison of bytes -/

theorem same_iff : ∀ {a b : Bytes}, same a b = true ↔ a = b
  | [], [] => ⟨fun _ => rfl, fun _ => rfl⟩
  | [], _ :: _ => ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | _ :: _, [] => ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | x :: xs, y :: ys =>
    ⟨fun h => by
      have h := and_iff.1 h
      rw [beq_iff.1 h.1, same_iff.1 h.2],
    fun h => by
      injection h with h₁ h₂
      exact and_iff.2 ⟨beq_iff.2 h₁, same_iff.2 h₂⟩⟩

theorem same_self (a : Bytes) : same a a = true := same_iff.2 rfl

theorem sameList_iff : ∀ {a b : List Bytes}, sameList a b = true ↔ a = b
  | [], [] => ⟨fun _ => rfl, fun _ => rfl⟩
  | [], _ :: _ => ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | _ :: _, [] => ⟨fun h => (by cases h), fun h => (by cases h)⟩
  | x :: xs, y :: ys =>
    ⟨fun h => by
      have h := and_iff.1 h
      rw [same_iff.1 h.1, sameList_iff.1 h.2],
    fun h => by
      injection h with h₁ h₂
      exact and_iff.2 ⟨same_iff.2 h₁, sameList_iff.2 h₂⟩⟩

theorem sameList_self (a : List Bytes) : sameList a a = true := sameList_iff.2 rfl

end Coeffect
