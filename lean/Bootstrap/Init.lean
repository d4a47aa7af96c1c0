prelude
import Init.Core
import Init.Syntax
set_option autoImplicit true
set_option linter.unusedVariables false

-- Division with remainder, as the usual laws have it.
theorem Nat.sub_add_of_ble : {n m : Nat} → Eq (Nat.ble m n) true → Eq (Nat.add (Nat.sub n m) m) n
  | _, 0, _ => rfl
  | succ n, succ m, h =>
    have shift : Eq (Nat.sub (succ n) (succ m)) (Nat.sub n m) := m.rec rfl fun _ ih => congrArg pred ih
    shift ▸ congrArg succ (sub_add_of_ble h)
theorem Nat.succ_add' (n : Nat) : (m : Nat) → Eq (Nat.add (succ n) m) (succ (Nat.add n m))
  | 0 => rfl
  | succ m => congrArg succ (succ_add' n m)
theorem Nat.add_comm' (n : Nat) : (m : Nat) → Eq (Nat.add n m) (Nat.add m n)
  | 0 => n.rec rfl fun _ ih => congrArg succ ih
  | succ m => Eq.trans (congrArg succ (add_comm' n m)) (succ_add' m n).symm
theorem Nat.add_assoc' (a b : Nat) : (c : Nat) → Eq (Nat.add (Nat.add a b) c) (Nat.add a (Nat.add b c))
  | 0 => rfl
  | succ c => congrArg succ (add_assoc' a b c)
theorem Nat.divFuel_modFuel (m : Nat) : (fuel n : Nat) →
    Eq (Nat.add (Nat.mul m (divFuel fuel n m)) (modFuel fuel n m)) n
  | 0, n => Eq.trans (add_comm' 0 n) rfl
  | succ fuel, n => by
    show Eq (Nat.add (Nat.mul m (cond (ble m n) (succ (divFuel fuel (Nat.sub n m) m)) zero))
      (cond (ble m n) (modFuel fuel (Nat.sub n m) m) n)) n
    cases h : ble m n with
    | false => exact Eq.trans (add_comm' 0 n) rfl
    | true =>
      have ih := divFuel_modFuel m fuel (Nat.sub n m)
      show Eq (Nat.add (Nat.add (Nat.mul m (divFuel fuel (Nat.sub n m) m)) m) (modFuel fuel (Nat.sub n m) m)) n
      exact Eq.trans (add_assoc' _ _ _) (Eq.trans (congrArg (Nat.add _) (add_comm' m _))
        (Eq.trans (add_assoc' _ _ _).symm (Eq.trans (congrArg (fun k => Nat.add k m) ih) (sub_add_of_ble h))))
theorem Nat.div_add_mod (m k : Nat) : Eq (HAdd.hAdd (HMul.hMul k (HDiv.hDiv m k)) (HMod.hMod m k)) m :=
  match k with
  | 0 => Eq.trans (congrArg (fun j => Nat.add j m) (rfl : Eq (Nat.mul 0 0) 0)) (Eq.trans (add_comm' 0 m) rfl)
  | succ k => divFuel_modFuel (succ k) m m
theorem Nat.pred_le' : (n : Nat) → LE.le (pred n) n
  | 0 => Nat.le.refl
  | succ _ => Nat.le.step Nat.le.refl
theorem Nat.sub_le (n : Nat) : (m : Nat) → LE.le (Nat.sub n m) n
  | 0 => Nat.le.refl
  | succ m => Nat.le_trans (pred_le' (Nat.sub n m)) (sub_le n m)
theorem Nat.not_ble : {n m : Nat} → Eq (Nat.ble m n) false → LE.le (succ n) m
  | 0, succ _, _ => Nat.succ_le_succ (Nat.zero_le _)
  | succ _, succ _, h => Nat.succ_le_succ (not_ble h)
theorem Nat.modFuel_lt (k : Nat) : (fuel n : Nat) → LE.le n fuel → LE.le (succ (modFuel fuel n (succ k))) (succ k)
  | 0, n, h => Nat.succ_le_succ (Nat.le_trans h (Nat.zero_le k))
  | succ fuel, n, h => by
    show LE.le (succ (cond (ble (succ k) n) (modFuel fuel (Nat.sub n (succ k)) (succ k)) n)) (succ k)
    cases hb : ble (succ k) n with
    | false => exact not_ble hb
    | true =>
      refine modFuel_lt k fuel _ ?_
      cases n with
      | zero => exact nomatch hb
      | succ n =>
        have shift : Eq (Nat.sub (succ n) (succ k)) (Nat.sub n k) := k.rec rfl fun _ ih => congrArg pred ih
        exact shift ▸ Nat.le_trans (sub_le n k) (Nat.le_of_succ_le_succ h)
theorem Nat.mod_lt (x : Nat) {y : Nat} : GT.gt y 0 → LT.lt (HMod.hMod x y) y :=
  match y with
  | 0 => fun h => absurd h (Nat.not_succ_le_zero 0)
  | succ k => fun _ => modFuel_lt k x x Nat.le.refl
