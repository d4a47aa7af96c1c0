prelude
set_option autoImplicit true
set_option linter.defProp false
set_option linter.unusedVariables false

/-!
# The small Init: logic and data

What the elaborator, the tactics and the code generator ask for by name, and what the checker's sources use of the
standard library: the same names with the same meaning as in Lean's own `Init`, so that the sources build against either.

The kernel computes `Nat.add`, `sub`, `mul`, `div`, `mod`, `beq` and `ble` on literals by itself. So the definitions of
these seven below must be the usual arithmetic, and are.
-/
universe u v w u₁ u₂ u₃

unsafe axiom lcErased : Type
unsafe axiom lcAny : Type
unsafe axiom lcVoid : Type
unsafe axiom lcProof {α : Prop} : α
unsafe axiom lcCast {α : Sort u} {β : Sort v} (a : α) : β
unsafe axiom lcUnreachable {α : Sort u} : α

@[inline] def id {α : Sort u} (a : α) : α := a
@[inline] def Function.comp {α : Sort u} {β : Sort v} {δ : Sort w} (f : β → δ) (g : α → β) : α → δ :=
  fun x => f (g x)

set_option bootstrap.inductiveCheckResultingUniverse false in
inductive PUnit : Sort u where
  | unit : PUnit

abbrev Unit : Type := PUnit
@[match_pattern] abbrev Unit.unit : Unit := PUnit.unit

@[reducible] def outParam (α : Sort u) : Sort u := α
@[reducible] def semiOutParam (α : Sort u) : Sort u := α
@[reducible] def optParam (α : Sort u) (default : α) : Sort u := α
inductive True : Prop where
  | intro : True
inductive False : Prop
inductive Empty : Type
def Not (a : Prop) : Prop := a → False
@[macro_inline] def False.elim {C : Sort u} (h : False) : C := h.rec
@[macro_inline] def absurd {a : Prop} {b : Sort v} (h₁ : a) (h₂ : Not a) : b := (h₂ h₁).rec

inductive Eq : α → α → Prop where
  | refl (a : α) : Eq a a
abbrev Eq.ndrec.{u1, u2} {α : Sort u2} {a : α} {motive : α → Sort u1} (m : motive a) {b : α} (h : Eq a b) : motive b :=
  h.rec m
@[match_pattern] def rfl {α : Sort u} {a : α} : Eq a a := Eq.refl a
theorem Eq.subst {α : Sort u} {motive : α → Prop} {a b : α} (h₁ : Eq a b) (h₂ : motive a) : motive b := Eq.ndrec h₂ h₁
theorem Eq.symm {α : Sort u} {a b : α} (h : Eq a b) : Eq b a := h ▸ rfl
theorem Eq.trans {α : Sort u} {a b c : α} (h₁ : Eq a b) (h₂ : Eq b c) : Eq a c := h₂ ▸ h₁
@[macro_inline] def cast {α β : Sort u} (h : Eq α β) (a : α) : β := h.rec a
theorem congrArg {α : Sort u} {β : Sort v} {a₁ a₂ : α} (f : α → β) (h : Eq a₁ a₂) : Eq (f a₁) (f a₂) := h ▸ rfl
theorem congr {α : Sort u} {β : Sort v} {f₁ f₂ : α → β} {a₁ a₂ : α} (h₁ : Eq f₁ f₂) (h₂ : Eq a₁ a₂) : Eq (f₁ a₁) (f₂ a₂) := h₁ ▸ h₂ ▸ rfl
theorem congrFun {α : Sort u} {β : α → Sort v} {f g : (x : α) → β x} (h : Eq f g) (a : α) : Eq (f a) (g a) := h ▸ rfl
theorem congrFun' {α : Sort u} {β : Sort v} {f g : α → β} (h : Eq f g) (a : α) : Eq (f a) (g a) := h ▸ rfl

inductive HEq : {α : Sort u} → α → {β : Sort u} → β → Prop where
  | refl (a : α) : HEq a a
@[match_pattern] protected def HEq.rfl {α : Sort u} {a : α} : HEq a a := HEq.refl a
theorem eq_of_heq {α : Sort u} {a a' : α} (h : HEq a a') : Eq a a' :=
  have : (α β : Sort u) → (a : α) → (b : β) → HEq a b → (h : Eq α β) → Eq (cast h a) b :=
    fun _ _ _ _ h₁ => h₁.rec (fun _ => rfl)
  this α α a a' h rfl
theorem heq_of_eq {α : Sort u} {a a' : α} (h : Eq a a') : HEq a a' := h ▸ HEq.refl a
theorem HEq.symm {α β : Sort u} {a : α} {b : β} (h : HEq a b) : HEq b a :=
  h.rec (HEq.refl a)
theorem HEq.trans {α β γ : Sort u} {a : α} {b : β} {c : γ} (h₁ : HEq a b) (h₂ : HEq b c) : HEq a c :=
  h₂.rec h₁


structure And (a b : Prop) : Prop where
  intro ::
  left : a
  right : b
inductive Or (a b : Prop) : Prop where
  | inl (h : a) : Or a b
  | inr (h : b) : Or a b
structure Iff (a b : Prop) : Prop where
  intro ::
  mp : a → b
  mpr : b → a
inductive Exists {α : Sort u} (p : α → Prop) : Prop where
  | intro (w : α) (h : p w) : Exists p
abbrev Ne {α : Sort u} (a b : α) : Prop := Not (Eq a b)

structure PProd (α : Sort u) (β : Sort v) where
  fst : α
  snd : β
structure MProd (α β : Type u) where
  fst : α
  snd : β
structure Prod (α : Type u) (β : Type v) where
  fst : α
  snd : β
structure PULift.{r, s} (α : Sort s) : Sort (max s r 1) where
  up ::
  down : α
structure ULift.{r, s} (α : Type s) : Type (max s r) where
  up ::
  down : α
structure Subtype {α : Sort u} (p : α → Prop) where
  val : α
  property : p val

set_option genCtorIdx false in
inductive Bool : Type where
  | false : Bool
  | true : Bool
export Bool (false true)

class Inhabited (α : Sort u) where
  default : α
export Inhabited (default)
class inductive Nonempty (α : Sort u) : Prop where
  | intro (val : α) : Nonempty α
instance : Inhabited PUnit where
  default := PUnit.unit

axiom propext {a b : Prop} : Iff a b → Eq a b

set_option genCtorIdx false in
inductive Nat where
  | zero : Nat
  | succ (n : Nat) : Nat
class OfNat (α : Type u) (_ : Nat) where
  ofNat : α
@[default_instance 100] instance instOfNatNat (n : Nat) : OfNat Nat n where
  ofNat := n
instance : Inhabited Nat where
  default := Nat.zero

@[macro_inline] def cond {α : Sort u} (c : Bool) (x y : α) : α :=
  match c with
  | true => x
  | false => y
@[macro_inline] def Bool.or (x y : Bool) : Bool := match x with
  | true => true
  | false => y
@[macro_inline] def Bool.and (x y : Bool) : Bool := match x with
  | false => false
  | true => y
@[inline] def Bool.not : Bool → Bool
  | true => false
  | false => true
export Bool (or and not)

set_option genCtorIdx false in
class inductive Decidable (p : Prop) where
  | isFalse (h : Not p) : Decidable p
  | isTrue (h : p) : Decidable p
@[inline_if_reduce, nospecialize] def Decidable.decide (p : Prop) [h : Decidable p] : Bool :=
  h.casesOn (fun _ => false) (fun _ => true)
export Decidable (isTrue isFalse decide)
abbrev DecidablePred {α : Sort u} (r : α → Prop) := (a : α) → Decidable (r a)
abbrev DecidableRel {α : Sort u} {β : Sort v} (r : α → β → Prop) := (a : α) → (b : β) → Decidable (r a b)
abbrev DecidableEq (α : Sort u) := (a b : α) → Decidable (Eq a b)
def decEq {α : Sort u} [inst : DecidableEq α] (a b : α) : Decidable (Eq a b) := inst a b


@[extern "lean_nat_dec_eq"]
def Nat.beq : (@& Nat) → (@& Nat) → Bool
  | zero, zero => true
  | zero, succ _ => false
  | succ _, zero => false
  | succ n, succ m => beq n m
theorem Nat.beq_refl : (n : Nat) → Eq (Nat.beq n n) true
  | zero => rfl
  | succ n => beq_refl n
theorem noConfusion_of_Nat {α : Sort u} (f : α → Nat) {a b : α} (h : Eq a b) :
    Bool.rec False True ((f a).beq (f b)) :=
  h ▸ (Nat.beq_refl (f a)).symm ▸ True.intro

theorem Bool.false_ne_true' {p : Prop} (h : Eq false true) : p :=
  False.elim (noConfusion_of_Nat (fun b => cond b 1 0) h)

@[extern "lean_nat_dec_le"]
def Nat.ble : @& Nat → @& Nat → Bool
  | zero, zero => true
  | zero, succ _ => true
  | succ _, zero => false
  | succ n, succ m => ble n m
theorem Nat.eq_of_beq_eq_true : {n m : Nat} → Eq (beq n m) true → Eq n m
  | zero, zero, _ => rfl
  | zero, succ _, h => Bool.false_ne_true' h
  | succ _, zero, h => Bool.false_ne_true' h
  | succ n, succ m, h =>
    have : Eq (beq n m) true := h
    (eq_of_beq_eq_true this) ▸ rfl
theorem Nat.ne_of_beq_eq_false {n m : Nat} (h : Eq (beq n m) false) : Not (Eq n m) := fun e =>
  Bool.false_ne_true' ((e ▸ h : Eq (beq n n) false).symm.trans (beq_refl n))
@[extern "lean_nat_dec_eq"]
def Nat.decEq (n m : @& Nat) : Decidable (Eq n m) :=
  match h : beq n m with
  | true => isTrue (eq_of_beq_eq_true h)
  | false => isFalse (ne_of_beq_eq_false h)
instance instDecidableEqNat : DecidableEq Nat := Nat.decEq

class CoeFun (α : Sort u) (γ : outParam (α → Sort v)) where
  coe : (f : α) → γ f
class CoeSort (α : Sort u) (β : outParam (Sort v)) where
  coe : α → β

@[extern "lean_nat_add"]
protected def Nat.add : (@& Nat) → (@& Nat) → Nat
  | n, .zero => n
  | n, .succ m => .succ (Nat.add n m)
@[extern "lean_nat_mul"]
protected def Nat.mul : (@& Nat) → (@& Nat) → Nat
  | _, .zero => .zero
  | n, .succ m => Nat.add (Nat.mul n m) n
@[extern "lean_nat_pred"]
def Nat.pred : (@& Nat) → Nat
  | .zero => .zero
  | .succ n => n
@[extern "lean_nat_sub"]
protected def Nat.sub : (@& Nat) → (@& Nat) → Nat
  | n, .zero => n
  | n, .succ m => pred (Nat.sub n m)
def Nat.divFuel : Nat → Nat → Nat → Nat
  | .zero, _, _ => .zero
  | .succ fuel, n, m => cond (ble m n) (.succ (divFuel fuel (Nat.sub n m) m)) .zero
def Nat.modFuel : Nat → Nat → Nat → Nat
  | .zero, n, _ => n
  | .succ fuel, n, m => cond (ble m n) (modFuel fuel (Nat.sub n m) m) n
@[extern "lean_nat_div"]
protected def Nat.div : (@& Nat) → (@& Nat) → Nat
  | _, .zero => .zero
  | n, .succ m => divFuel n n (.succ m)
@[extern "lean_nat_mod"]
protected def Nat.mod : (@& Nat) → (@& Nat) → Nat
  | n, .zero => n
  | n, .succ m => modFuel n n (.succ m)
attribute [gen_constructor_elims] Bool Nat Decidable

theorem of_decide_eq_true {p : Prop} [inst : Decidable p] : Eq (decide p) true → p := fun h =>
  match inst, h with
  | isTrue h₁, _ => h₁
  | isFalse _, h => nomatch h
theorem of_decide_eq_false {p : Prop} [inst : Decidable p] : Eq (decide p) false → Not p := fun h =>
  match inst, h with
  | isTrue _, h => nomatch h
  | isFalse h₁, _ => h₁
theorem decide_eq_true : [inst : Decidable p] → p → Eq (decide p) true
  | isTrue _, _ => rfl
  | isFalse h₁, h₂ => absurd h₂ h₁
theorem decide_eq_false : [Decidable p] → Not p → Eq (decide p) false
  | isTrue h₁, h₂ => absurd h₁ h₂
  | isFalse _, _ => rfl

class HAdd (α : Type u) (β : Type v) (γ : outParam (Type w)) where
  hAdd : α → β → γ
class HSub (α : Type u) (β : Type v) (γ : outParam (Type w)) where
  hSub : α → β → γ
class HMul (α : Type u) (β : Type v) (γ : outParam (Type w)) where
  hMul : α → β → γ
class HDiv (α : Type u) (β : Type v) (γ : outParam (Type w)) where
  hDiv : α → β → γ
class HMod (α : Type u) (β : Type v) (γ : outParam (Type w)) where
  hMod : α → β → γ
class HAppend (α : Type u) (β : Type v) (γ : outParam (Type w)) where
  hAppend : α → β → γ

class Add (α : Type u) where
  add : α → α → α
class Sub (α : Type u) where
  sub : α → α → α
class Mul (α : Type u) where
  mul : α → α → α
class Div (α : Type u) where
  div : α → α → α
class Mod (α : Type u) where
  mod : α → α → α
class Append (α : Type u) where
  append : α → α → α
@[default_instance, reducible] instance instHAdd [Add α] : HAdd α α α where
  hAdd a b := Add.add a b
@[default_instance, reducible] instance instHSub [Sub α] : HSub α α α where
  hSub a b := Sub.sub a b
@[default_instance, reducible] instance instHMul [Mul α] : HMul α α α where
  hMul a b := Mul.mul a b
@[default_instance, reducible] instance instHDiv [Div α] : HDiv α α α where
  hDiv a b := Div.div a b
@[default_instance, reducible] instance instHMod [Mod α] : HMod α α α where
  hMod a b := Mod.mod a b
@[default_instance, reducible] instance instHAppendOfAppend [Append α] : HAppend α α α where
  hAppend a b := Append.append a b
class LE (α : Type u) where
  le : α → α → Prop
class LT (α : Type u) where
  lt : α → α → Prop
@[reducible] def GE.ge [LE α] (a b : α) : Prop := LE.le b a
@[reducible] def GT.gt [LT α] (a b : α) : Prop := LT.lt b a
class BEq (α : Type u) where
  beq : α → α → Bool
export BEq (beq)
instance instBEqOfDecidableEq [DecidableEq α] : BEq α where
  beq a b := decide (Eq a b)
@[macro_inline] def bne [BEq α] (a b : α) : Bool := not (beq a b)
class Membership (α : outParam (Type u)) (γ : Type v) where
  mem : (γ) → (α) → Prop
class Singleton (α : outParam (Type u)) (β : Type v) where
  singleton : α → β
class GetElem (coll : Type u) (idx : Type v) (elem : outParam (Type w)) (valid : outParam (coll → idx → Prop)) where
  getElem (xs : coll) (i : idx) (h : valid xs i) : elem
class SizeOf (α : Sort u) where
  sizeOf : α → Nat
export SizeOf (sizeOf)
@[reducible] protected def default.sizeOf (α : Sort u) : α → Nat := fun _ => 0
@[instance 100] instance instSizeOfDefault (α : Sort u) : SizeOf α where
  sizeOf := default.sizeOf α
@[simp] theorem sizeOf_default (n : α) : Eq (sizeOf n) 0 := rfl
instance instSizeOfNat : SizeOf Nat where
  sizeOf n := n
@[simp] theorem sizeOf_nat (n : Nat) : Eq (sizeOf n) n := rfl

@[macro_inline] def ite {α : Sort u} (c : Prop) [h : Decidable c] (t e : α) : α :=
  match h with
  | isTrue _ => t
  | isFalse _ => e
@[macro_inline] def dite {α : Sort u} (c : Prop) [h : Decidable c] (t : c → α) (e : Not c → α) : α :=
  match h with
  | isTrue hc => t hc
  | isFalse hnc => e hnc

instance instAddNat : Add Nat := ⟨Nat.add⟩
instance instSubNat : Sub Nat := ⟨Nat.sub⟩
instance instMulNat : Mul Nat := ⟨Nat.mul⟩
instance instDivNat : Div Nat := ⟨Nat.div⟩
instance instModNat : Mod Nat := ⟨Nat.mod⟩

protected inductive Nat.le (n : Nat) : Nat → Prop
  | refl : Nat.le n n
  | step {m} : Nat.le n m → Nat.le n (succ m)
instance instLENat : LE Nat := ⟨Nat.le⟩
protected def Nat.lt (n m : Nat) : Prop := Nat.le (Nat.add n 1) m
instance instLTNat : LT Nat := ⟨Nat.lt⟩

theorem Nat.zero_le : (n : Nat) → LE.le 0 n
  | zero => Nat.le.refl
  | succ n => Nat.le.step (zero_le n)
theorem Nat.succ_le_succ : LE.le n m → LE.le (succ n) (succ m)
  | Nat.le.refl => Nat.le.refl
  | Nat.le.step h => Nat.le.step (succ_le_succ h)
protected theorem Nat.le_refl (n : Nat) : LE.le n n := Nat.le.refl
protected theorem Nat.le_trans : {n m k : Nat} → LE.le n m → LE.le m k → LE.le n k
  | _, _, _, h, Nat.le.refl => h
  | _, _, _, h₁, Nat.le.step h₂ => Nat.le.step (Nat.le_trans h₁ h₂)
theorem Nat.pred_le_pred : {n m : Nat} → LE.le n m → LE.le (pred n) (pred m)
  | _, _, Nat.le.refl => Nat.le.refl
  | 0, succ _, Nat.le.step h => h
  | succ _, succ _, Nat.le.step h => Nat.le_trans (Nat.le.step Nat.le.refl) h
theorem Nat.le_of_succ_le_succ {n m : Nat} : LE.le (succ n) (succ m) → LE.le n m := pred_le_pred
theorem Nat.not_succ_le_zero (n : Nat) : LE.le (succ n) 0 → False := fun h =>
  have aux : (m : Nat) → LE.le (succ n) m → Eq m 0 → False := fun
    | _, Nat.le.refl, h => nomatch h
    | _, Nat.le.step _, h => nomatch h
  aux 0 h rfl
theorem Nat.not_succ_le_self : (n : Nat) → Not (LE.le (succ n) n)
  | 0 => not_succ_le_zero 0
  | succ n => fun h => absurd (le_of_succ_le_succ h) (not_succ_le_self n)
theorem Nat.ble_self_eq_true : (n : Nat) → Eq (Nat.ble n n) true
  | 0 => rfl
  | succ n => ble_self_eq_true n
theorem Nat.ble_succ_eq_true : {n m : Nat} → Eq (Nat.ble n m) true → Eq (Nat.ble n (succ m)) true
  | 0, _, _ => rfl
  | succ n, succ _, h => ble_succ_eq_true (n := n) h
theorem Nat.ble_eq_true_of_le : {n m : Nat} → LE.le n m → Eq (Nat.ble n m) true
  | _, _, Nat.le.refl => Nat.ble_self_eq_true _
  | _, _, Nat.le.step h => Nat.ble_succ_eq_true (ble_eq_true_of_le h)
theorem Nat.le_of_ble_eq_true : {n m : Nat} → Eq (Nat.ble n m) true → LE.le n m
  | 0, _, _ => Nat.zero_le _
  | succ _, succ _, h => Nat.succ_le_succ (le_of_ble_eq_true h)
theorem Nat.not_le_of_not_ble_eq_true {n m : Nat} (h : Not (Eq (Nat.ble n m) true)) : Not (LE.le n m) :=
  fun h' => h (Nat.ble_eq_true_of_le h')
@[extern "lean_nat_dec_le"]
instance Nat.decLe (n m : @& Nat) : Decidable (LE.le n m) :=
  match h : Nat.ble n m with
  | true => isTrue (Nat.le_of_ble_eq_true h)
  | false => isFalse (fun h' => nomatch (h.symm.trans (Nat.ble_eq_true_of_le h')))
@[extern "lean_nat_dec_lt"]
instance Nat.decLt (n m : @& Nat) : Decidable (LT.lt n m) := decLe (succ n) m

inductive Option (α : Type u) where
  | none : Option α
  | some (val : α) : Option α
attribute [unbox] Option
export Option (none some)
inductive List (α : Type u) where
  | nil : List α
  | cons (head : α) (tail : List α) : List α
inductive Except (ε : Type u) (α : Type v) where
  | error : ε → Except ε α
  | ok : α → Except ε α
attribute [unbox] Except
inductive Sum (α : Type u) (β : Type v) where
  | inl (val : α) : Sum α β
  | inr (val : β) : Sum α β
instance : Inhabited (List α) := ⟨List.nil⟩

inductive List.Mem (a : α) : List α → Prop where
  | head (as : List α) : Mem a (cons a as)
  | tail (b : α) {as : List α} : Mem a as → Mem a (cons b as)
instance : Membership α (List α) where
  mem l a := List.Mem a l
protected def List.append : (xs ys : List α) → List α
  | nil, bs => bs
  | cons a as, bs => cons a (List.append as bs)
instance : Append (List α) := ⟨List.append⟩
def List.length : List α → Nat
  | nil => 0
  | cons _ as => HAdd.hAdd (length as) (1 : Nat)
def List.map (f : α → β) : List α → List β
  | nil => nil
  | cons a as => cons (f a) (map f as)
def List.foldl {α : Type u} {β : Type v} (f : α → β → α) : (init : α) → List β → α
  | a, nil => a
  | a, cons b l => foldl f (f a b) l
def List.all : List α → (α → Bool) → Bool
  | nil, _ => true
  | cons h t, p => and (p h) (all t p)
def List.any : List α → (α → Bool) → Bool
  | nil, _ => false
  | cons h t, p => or (p h) (any t p)
def List.filter (p : α → Bool) : List α → List α
  | nil => nil
  | cons a as => match p a with
    | true => cons a (filter p as)
    | false => filter p as
def List.reverseAux : List α → List α → List α
  | nil, r => r
  | cons a l, r => reverseAux l (cons a r)
def List.reverse (as : List α) : List α := reverseAux as nil

-- Quotients, and extensionality of functions from them.
init_quot
axiom Quot.sound : ∀ {α : Sort u} {r : α → α → Prop} {a b : α}, r a b → Eq (Quot.mk r a) (Quot.mk r b)
theorem funext {α : Sort u} {β : α → Sort v} {f g : (x : α) → β x} (h : (x : α) → Eq (f x) (g x)) : Eq f g :=
  congrArg (fun (q : Quot (fun f g : (x : α) → β x => (x : α) → Eq (f x) (g x))) (x : α) =>
    Quot.lift (fun f : (x : α) → β x => f x) (fun _ _ h => h x) q) (Quot.sound h)

instance : Decidable True := isTrue True.intro
instance : Decidable False := isFalse id
instance instDecidableAnd [dp : Decidable p] [dq : Decidable q] : Decidable (And p q) :=
  match dp with
  | isTrue hp => match dq with
    | isTrue hq => isTrue ⟨hp, hq⟩
    | isFalse hq => isFalse fun h => hq h.2
  | isFalse hp => isFalse fun h => hp h.1
instance instDecidableNot [dp : Decidable p] : Decidable (Not p) :=
  match dp with
  | isTrue hp => isFalse (absurd hp)
  | isFalse hp => isTrue hp
instance instDecidableEqBool : DecidableEq Bool := fun
  | true, true => isTrue rfl
  | true, false => isFalse (fun h => nomatch h)
  | false, true => isFalse (fun h => nomatch h)
  | false, false => isTrue rfl

-- What simplification and rewriting build their proofs from.
theorem of_eq_true {p : Prop} (h : Eq p True) : p := h ▸ True.intro
theorem eq_true {p : Prop} (h : p) : Eq p True := propext ⟨fun _ => True.intro, fun _ => h⟩
theorem eq_false {p : Prop} (h : Not p) : Eq p False := propext ⟨fun h' => absurd h' h, fun h' => h'.elim⟩
theorem eq_false' {p : Prop} (h : p → False) : Eq p False := eq_false h
theorem of_eq_false {p : Prop} (h : Eq p False) : Not p := fun hp => h ▸ hp
@[simp] theorem eq_self {α : Sort u} (a : α) : Eq (Eq a a) True := eq_true rfl
@[simp] theorem ne_eq {α : Sort u} (a b : α) : Eq (Ne a b) (Not (Eq a b)) := rfl
@[simp] theorem iff_self (p : Prop) : Eq (Iff p p) True := eq_true ⟨id, id⟩
@[simp] theorem and_true (p : Prop) : Eq (And p True) p := propext ⟨fun h => h.1, fun h => ⟨h, True.intro⟩⟩
@[simp] theorem true_and (p : Prop) : Eq (And True p) p := propext ⟨fun h => h.2, fun h => ⟨True.intro, h⟩⟩
@[simp] theorem and_false (p : Prop) : Eq (And p False) False := eq_false fun h => h.2
@[simp] theorem false_and (p : Prop) : Eq (And False p) False := eq_false fun h => h.1
@[simp] theorem and_self (p : Prop) : Eq (And p p) p := propext ⟨fun h => h.1, fun h => ⟨h, h⟩⟩
@[simp] theorem or_true (p : Prop) : Eq (Or p True) True := eq_true (Or.inr True.intro)
@[simp] theorem true_or (p : Prop) : Eq (Or True p) True := eq_true (Or.inl True.intro)
@[simp] theorem or_false (p : Prop) : Eq (Or p False) p := propext ⟨fun h => h.rec id False.elim, Or.inl⟩
@[simp] theorem false_or (p : Prop) : Eq (Or False p) p := propext ⟨fun h => h.rec False.elim id, Or.inr⟩
@[simp] theorem not_true_eq_false : Eq (Not True) False := eq_false fun h => h True.intro
@[simp] theorem not_false_eq_true : Eq (Not False) True := eq_true id
@[simp] theorem implies_true (α : Sort u) : Eq (∀ _ : α, True) True := eq_true fun _ => True.intro
@[simp] theorem true_implies (p : Prop) : Eq (True → p) p := propext ⟨fun h => h True.intro, fun h _ => h⟩
@[simp] theorem false_implies (p : Prop) : Eq (False → p) True := eq_true False.elim
theorem implies_congr {p₁ p₂ : Sort u} {q₁ q₂ : Sort v} (h₁ : Eq p₁ p₂) (h₂ : Eq q₁ q₂) : Eq (p₁ → q₁) (p₂ → q₂) :=
  h₁ ▸ h₂ ▸ rfl
theorem implies_congr_ctx {p₁ p₂ q₁ q₂ : Prop} (h₁ : Eq p₁ p₂) (h₂ : p₂ → Eq q₁ q₂) : Eq (p₁ → q₁) (p₂ → q₂) :=
  propext ⟨fun h hp => (h₂ hp) ▸ h (h₁ ▸ hp), fun h hp => (h₂ (h₁ ▸ hp)) ▸ h (h₁ ▸ hp)⟩
theorem implies_dep_congr_ctx {p₁ p₂ q₁ : Prop} (h₁ : Eq p₁ p₂) {q₂ : p₂ → Prop} (h₂ : (h : p₂) → Eq q₁ (q₂ h)) :
    Eq (p₁ → q₁) ((h : p₂) → q₂ h) :=
  propext ⟨fun h hp => (h₂ hp) ▸ h (h₁ ▸ hp), fun h hp => (h₂ (h₁ ▸ hp)) ▸ h (h₁ ▸ hp)⟩
theorem forall_congr {α : Sort u} {p q : α → Prop} (h : ∀ a, Eq (p a) (q a)) : Eq (∀ a, p a) (∀ a, q a) :=
  (funext h : Eq p q) ▸ rfl
theorem exists_congr_eq {α : Sort u} {p q : α → Prop} (h : ∀ a, Eq (p a) (q a)) : Eq (Exists p) (Exists q) :=
  (funext h : Eq p q) ▸ rfl
@[macro_inline] def Eq.mp {α β : Sort u} (h : Eq α β) (a : α) : β := h ▸ a
@[macro_inline] def Eq.mpr {α β : Sort u} (h : Eq α β) (b : β) : α := h ▸ b
theorem Eq.mpr_prop {p q : Prop} (h₁ : Eq p q) (h₂ : q) : p := h₁ ▸ h₂
theorem Eq.mpr_not {p q : Prop} (h₁ : Eq p q) (h₂ : Not q) : Not p := h₁ ▸ h₂

@[simp] theorem ite_true {α : Sort u} (a b : α) : Eq (ite True a b) a := rfl
theorem if_pos {c : Prop} {h : Decidable c} (hc : c) {α : Sort u} {t e : α} : Eq (ite c t e) t :=
  match h with
  | isTrue _ => rfl
  | isFalse hnc => absurd hc hnc
theorem if_neg {c : Prop} {h : Decidable c} (hnc : Not c) {α : Sort u} {t e : α} : Eq (ite c t e) e :=
  match h with
  | isTrue hc => absurd hc hnc
  | isFalse _ => rfl
@[simp] theorem Bool.true_and (b : Bool) : Eq (and true b) b := rfl
@[simp] theorem Bool.and_true : (b : Bool) → Eq (and b true) b
  | true => rfl
  | false => rfl
@[simp] theorem Bool.false_and (b : Bool) : Eq (and false b) false := rfl
@[simp] theorem Bool.and_false : (b : Bool) → Eq (and b false) false
  | true => rfl
  | false => rfl
theorem Iff.refl (a : Prop) : Iff a a := ⟨id, id⟩
protected theorem Iff.rfl {a : Prop} : Iff a a := Iff.refl a
theorem Iff.symm (h : Iff a b) : Iff b a := ⟨h.2, h.1⟩
theorem Iff.trans (h₁ : Iff a b) (h₂ : Iff b c) : Iff a c := ⟨fun h => h₂.1 (h₁.1 h), fun h => h₁.2 (h₂.2 h)⟩
theorem Or.elim {c : Prop} (h : Or a b) (left : a → c) (right : b → c) : c :=
  match h with
  | Or.inl h => left h
  | Or.inr h => right h
theorem Exists.elim {α : Sort u} {p : α → Prop} {b : Prop} (h₁ : Exists p) (h₂ : ∀ a, p a → b) : b :=
  match h₁ with
  | ⟨a, h⟩ => h₂ a h
theorem trivial : True := ⟨⟩

-- Coercions: a Boolean where a proposition is meant.
class CoeT (α : Sort u₁) (_ : α) (β : Sort u₂) where
  coe : β
attribute [match_pattern] Nat.add Add.add HAdd.hAdd
