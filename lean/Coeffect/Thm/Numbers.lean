import Coeffect.Thm.FailClosed

/-!
# Numbers

`parseNat` undoes `printNat`, for every number of at most nine digits; and no other spelling of a number is read.
-/
namespace Coeffect

def tenTo : Nat → Nat
  | 0 => 1
  | n + 1 => tenTo n * 10

theorem not_le_of_ble {m n : Nat} (h : Nat.ble m n = false) : ¬ m ≤ n := fun hle => by
  rw [ble_iff.2 hle] at h
  cases h

theorem lt_or_le (m n : Nat) : m < n ∨ n ≤ m :=
  (le_or_le (m + 1) n).elim Or.inl fun h => by
    cases hb : Nat.ble n m with
    | true => exact Or.inr (ble_iff.1 hb)
    | false =>
      exact (le_or_le n m).elim Or.inr fun h' => by
        cases hc : Nat.ble (m + 1) n with
        | true => exact Or.inl (ble_iff.1 hc)
        | false =>
          have e : n = m + 1 := Or.elim (le_succ_cases h) (fun h'' => absurd h'' (not_le_of_ble hb)) id
          rw [e] at hc
          exact absurd (Nat.le_refl (m + 1)) (not_le_of_ble hc)
where
  le_succ_cases : ∀ {a b : Nat}, a ≤ b + 1 → a ≤ b ∨ a = b + 1
    | 0, b, _ => Or.inl (Nat.zero_le b)
    | a + 1, 0, h => by
      cases a with
      | zero => exact Or.inr rfl
      | succ a => exact absurd (Nat.le_of_succ_le_succ h) (Nat.not_succ_le_zero a)
    | a + 1, b + 1, h => (le_succ_cases (Nat.le_of_succ_le_succ h)).elim (fun h => Or.inl (Nat.succ_le_succ h))
        fun h => Or.inr (congrArg Nat.succ h)

theorem mul_le_mul_right {a b : Nat} (h : a ≤ b) : ∀ k : Nat, a * k ≤ b * k
  | 0 => Nat.le_refl 0
  | k + 1 => add_le_add (mul_le_mul_right h k) h

theorem zero_mul : ∀ n : Nat, 0 * n = 0
  | 0 => rfl
  | n + 1 => zero_mul n

theorem succ_mul (a : Nat) : ∀ b : Nat, (a + 1) * b = a * b + b
  | 0 => rfl
  | b + 1 => by
    show (a + 1) * b + (a + 1) = a * b + a + (b + 1)
    rw [succ_mul a b, add_assoc, add_assoc, ← add_assoc b a 1, ← add_assoc a b 1, add_comm b a]

theorem mul_comm (a : Nat) : ∀ b : Nat, a * b = b * a
  | 0 => (zero_mul a).symm
  | b + 1 => by
    show a * b + a = (b + 1) * a
    rw [mul_comm a b, succ_mul]

theorem succ_sub_succ (a : Nat) : ∀ b : Nat, (a + 1) - (b + 1) = a - b
  | 0 => rfl
  | b + 1 => congrArg Nat.pred (succ_sub_succ a b)

theorem add_sub (a b : Nat) : a + b - a = b := by
  induction a with
  | zero => exact zero_add b
  | succ a ih => rw [succ_add, succ_sub_succ, ih]

/-- A quotient is below a bound when the number is below the multiple. -/
theorem div_lt {n bound k : Nat} (h : n < bound * k) : n / k < bound :=
  (lt_or_le (n / k) bound).elim id fun hle => by
    have h₁ := mul_le_mul_right hle k
    have h₂ : n / k * k ≤ n := by
      have e := Nat.div_add_mod n k
      rw [mul_comm k (n / k)] at e
      have l := le_add (n / k * k) (n % k)
      rw [e] at l
      exact l
    exact absurd (Nat.le_trans h (Nat.le_trans h₁ h₂)) (Nat.not_succ_le_self n)

theorem last_digit (n : Nat) : n % 10 ≤ 9 :=
  Nat.le_of_succ_le_succ (Nat.mod_lt n (ble_iff.1 rfl))

theorem digit_is_digit {n : Nat} (h : n ≤ 9) : isDigit (Ascii.zero + n) = true :=
  and_iff.2 ⟨ble_iff.2 (le_add Ascii.zero n), ble_iff.2 (add_le_add (Nat.le_refl Ascii.zero) h)⟩

def nextValue (n : Nat) (byte : Byte) : Nat := n * 10 + (byte - Ascii.zero)

theorem next_digit {n d : Nat} : nextValue n (Ascii.zero + d) = n * 10 + d := by
  rw [nextValue, add_sub]

theorem digits_small {fuel n : Nat} {after : Bytes} (h : Nat.ble n 9 = true) :
    digits (fuel + 1) n after = (Ascii.zero + n) :: after := bif_true h

theorem digits_large {fuel n : Nat} {after : Bytes} (h : Nat.ble n 9 = false) :
    digits (fuel + 1) n after = digits fuel (n / 10) ((Ascii.zero + n % 10) :: after) := bif_false h

/-- The digits of a number stand for it, whatever follows. -/
theorem value_of_digits : ∀ {fuel n : Nat} {after : Bytes}, n < tenTo fuel →
    (digits fuel n after).foldl nextValue 0 = after.foldl nextValue n
  | 0, n, after, h => by
    cases n with
    | zero => rfl
    | succ n => exact absurd (Nat.le_of_succ_le_succ h) (Nat.not_succ_le_zero n)
  | fuel + 1, n, after, h => by
    cases hb : Nat.ble n 9 with
    | true =>
      rw [digits_small hb]
      show after.foldl nextValue (nextValue 0 (Ascii.zero + n)) = _
      rw [next_digit, zero_mul, zero_add]
    | false =>
      rw [digits_large hb, value_of_digits (div_lt h)]
      show after.foldl nextValue (nextValue (n / 10) (Ascii.zero + n % 10)) = _
      rw [next_digit, mul_comm (n / 10) 10, Nat.div_add_mod]

theorem digits_length : ∀ {fuel n k : Nat} {after : Bytes}, atMost k after = true →
    atMost (fuel + k) (digits fuel n after) = true
  | 0, n, k, after, h => by
    rw [zero_add]
    exact h
  | fuel + 1, n, k, after, h => by
    cases hb : Nat.ble n 9 with
    | true =>
      rw [digits_small hb, succ_add]
      exact at_most_more h fuel
    | false =>
      rw [digits_large hb, succ_add]
      exact digits_length (fuel := fuel) (k := k + 1) h
where
  at_most_succ : ∀ {k : Nat} {bytes : Bytes}, atMost k bytes = true → atMost (k + 1) bytes = true
    | _, [], _ => rfl
    | 0, _ :: _, h => by cases h
    | k + 1, _ :: bytes, h => at_most_succ (k := k) (bytes := bytes) h
  at_most_more {k : Nat} {bytes : Bytes} (h : atMost k bytes = true) : ∀ fuel : Nat, atMost (fuel + k) bytes = true
    | 0 => by
      rw [zero_add]
      exact h
    | fuel + 1 => by
      rw [succ_add]
      exact at_most_succ (at_most_more h fuel)

theorem digits_are_digits : ∀ {fuel n : Nat} {after : Bytes}, after.all isDigit = true →
    (digits fuel n after).all isDigit = true
  | 0, _, _, h => h
  | fuel + 1, n, after, h => by
    cases hb : Nat.ble n 9 with
    | true =>
      rw [digits_small hb]
      exact and_iff.2 ⟨digit_is_digit (ble_iff.1 hb), h⟩
    | false =>
      rw [digits_large hb]
      exact digits_are_digits (and_iff.2 ⟨digit_is_digit (last_digit n), h⟩)

theorem printNat_digits (n : Nat) : (printNat n).all isDigit = true := digits_are_digits rfl

/-- `parseNat` undoes `printNat`. -/
theorem parse_printNat {n : Nat} (h : n < tenTo maxDigits) : parseNat (printNat n) = some n := by
  have hv : value (printNat n) = n := value_of_digits (after := []) h
  rw [parseNat, hv, same_self, printNat_digits]
  exact bif_true (and_iff.2 ⟨and_iff.2 ⟨digits_length (fuel := maxDigits) (k := 0) (after := []) rfl, rfl⟩, rfl⟩)

/-- A number has one spelling. -/
theorem parseNat_is_strict {bytes : Bytes} {n : Nat} (h : parseNat bytes = some n) : bytes = printNat n := by
  have h := bif_some.1 h
  injection h.2 with e
  rw [← e]
  exact (same_iff.1 (and_iff.1 h.1).2).symm

/-- Whatever was read as a number is read again from its print. -/
theorem parse_print_parsedNat {bytes : Bytes} {n : Nat} (h : parseNat bytes = some n) : parseNat (printNat n) = some n := by
  rw [← parseNat_is_strict h]
  exact h

end Coeffect
