import Coeffect.Spec.Bytes

/-!
# Resources

What an action may need of the world (a `Declaration`), what it used of the world (a list of `Item`s), and when the one
covers the other.

A declaration is a product of three dimensions: a set of grants, at most one quantity of GPUs, and the set of sandboxes
that will do. `join` (the `+` of the grammar, and the sequential use of two declarations) takes the union, the larger
quantity and the union; `parallel` adds the quantities up instead. `le` is entailment, dimension by dimension.
-/
namespace Coeffect

/-- How a file is used. -/
inductive Access where
  | readOnly
  | readWrite

/-- A right to write is a right to read. -/
def Access.covers : Access → Access → Bool
  | .readWrite, _ => true
  | .readOnly, .readOnly => true
  | .readOnly, .readWrite => false

/-- The labels of a normalised host name, from the left: `a.example` is `["a", "example"]`. -/
abbrev Host := List Bytes

/-- A host, or with `wild` every host that has exactly one more label on its left. -/
structure HostPattern where
  wild : Bool
  labels : Host

def HostPattern.covers (pattern : HostPattern) (host : Host) : Bool :=
  match pattern.wild, host with
  | false, host => sameList pattern.labels host
  | true, [] => false
  | true, _ :: parent => sameList pattern.labels parent

/-- Everything that the smaller pattern covers, the larger one covers. -/
def HostPattern.le (small large : HostPattern) : Bool :=
  match small.wild, large.wild with
  | true, true => sameList large.labels small.labels
  | true, false => false
  | false, _ => large.covers small.labels

/-- A grant without a port is good for every port. -/
def portCovers : Option Nat → Nat → Bool
  | none, _ => true
  | some granted, used => granted == used

def portLe : Option Nat → Option Nat → Bool
  | _, none => true
  | none, some _ => false
  | some small, some large => large == small

/-- The segments of a normalised absolute path; the root has none. -/
abbrev Path := List Bytes

/-- Whether a path is the directory or lies under it: a prefix that ends where a segment ends. -/
def isUnder : Path → Path → Bool
  | [], _ => true
  | _ :: _, [] => false
  | dir :: dirs, segment :: segments => same dir segment && isUnder dirs segments

/-- So many GPUs at once, each with at least so much memory (MiB) and at least this compute capability (sm_NN). -/
structure Gpu where
  count : Nat
  memory : Nat
  sm : Nat

/-- A lease is covered when it has no more devices than granted, and each is of the class that was asked for. -/
def Gpu.covers (granted used : Gpu) : Bool :=
  Nat.ble used.count granted.count && Nat.ble granted.memory used.memory && Nat.ble granted.sm used.sm

def larger (m n : Nat) : Nat := bif Nat.ble m n then n else m
def smaller (m n : Nat) : Nat := bif Nat.ble m n then m else n

/-- One after the other: the devices are used twice. -/
def Gpu.join (a b : Gpu) : Gpu := ⟨larger a.count b.count, smaller a.memory b.memory, smaller a.sm b.sm⟩

/-- At the same time: the devices add up. -/
def Gpu.parallel (a b : Gpu) : Gpu := ⟨a.count + b.count, smaller a.memory b.memory, smaller a.sm b.sm⟩

/-- Combines two quantities of which either may be absent. -/
def combine (both : Gpu → Gpu → Gpu) : Option Gpu → Option Gpu → Option Gpu
  | none, b => b
  | some a, none => some a
  | some a, some b => some (both a b)

def gpuLe : Option Gpu → Option Gpu → Bool
  | none, _ => true
  | some _, none => false
  | some small, some large => large.covers small

inductive Sandbox where
  | wasm
  | namespaces
  | microvm

/-- The kinds of sandbox that will do. -/
structure Sandboxes where
  wasm : Bool
  namespaces : Bool
  microvm : Bool

def Sandboxes.covers (allowed : Sandboxes) : Sandbox → Bool
  | .wasm => allowed.wasm
  | .namespaces => allowed.namespaces
  | .microvm => allowed.microvm

def Sandboxes.only : Sandbox → Sandboxes
  | .wasm => ⟨true, false, false⟩
  | .namespaces => ⟨false, true, false⟩
  | .microvm => ⟨false, false, true⟩

def Sandboxes.none : Sandboxes := ⟨false, false, false⟩
def Sandboxes.any : Sandboxes := ⟨true, true, true⟩

def Sandboxes.join (a b : Sandboxes) : Sandboxes :=
  ⟨a.wasm || b.wasm, a.namespaces || b.namespaces, a.microvm || b.microvm⟩

def implies (a b : Bool) : Bool := !a || b

def Sandboxes.le (small large : Sandboxes) : Bool :=
  implies small.wasm large.wasm && implies small.namespaces large.namespaces && implies small.microvm large.microvm

/-- One thing that an action may use. -/
inductive Grant where
  | network
  | host (pattern : HostPattern) (port : Option Nat)
  | auth (name : Bytes)
  | filesystem (path : Path) (access : Access)

/-- One thing that an action did use, as the executor and the network witness saw it. -/
inductive Item where
  | network (host : Host) (port : Nat)
  | auth (name : Bytes)
  | filesystem (path : Path) (access : Access)
  | gpu (lease : Gpu)
  | sandbox (kind : Sandbox)

def Grant.covers : Grant → Item → Bool
  | .network, .network _ _ => true
  | .host pattern port, .network used on => pattern.covers used && portCovers port on
  | .auth granted, .auth used => same granted used
  | .filesystem dir granted, .filesystem path used => isUnder dir path && granted.covers used
  | _, _ => false

/-- Entailment: everything that the smaller grant covers, the larger one covers. -/
def Grant.le : Grant → Grant → Bool
  | .network, .network => true
  | .host _ _, .network => true
  | .host small port, .host large port' => small.le large && portLe port port'
  | .auth small, .auth large => same large small
  | .filesystem small access, .filesystem large access' => isUnder large small && access'.covers access
  | _, _ => false

structure Declaration where
  grants : List Grant
  gpu : Option Gpu
  sandboxes : Sandboxes

/-- The declaration of an action that asks for nothing. Any sandbox will do. -/
def Declaration.pure : Declaration := ⟨[], none, .any⟩

/-- The unit of `join`: covers nothing, not even a sandbox. -/
def Declaration.nothing : Declaration := ⟨[], none, .none⟩

def Declaration.covers (declared : Declaration) : Item → Bool
  | .gpu lease => gpuLe (some lease) declared.gpu
  | .sandbox kind => declared.sandboxes.covers kind
  | item => declared.grants.any fun grant => grant.covers item

/-- Entailment of declarations, dimension by dimension. -/
def Declaration.le (small large : Declaration) : Bool :=
  (small.grants.all fun grant => large.grants.any fun other => grant.le other)
    && gpuLe small.gpu large.gpu && small.sandboxes.le large.sandboxes

/-- Adds a grant unless another one makes it superfluous, and drops those that it makes superfluous. -/
def insert (grants : List Grant) (grant : Grant) : List Grant :=
  bif grants.any fun other => grant.le other then grants
  else grant :: grants.filter fun other => !other.le grant

def union (a b : List Grant) : List Grant := b.foldl insert a

/-- What two actions need, one after the other: the `+` of the grammar. -/
def Declaration.join (a b : Declaration) : Declaration :=
  ⟨union a.grants b.grants, combine Gpu.join a.gpu b.gpu, a.sandboxes.join b.sandboxes⟩

/-- What two actions need at the same time. -/
def Declaration.parallel (a b : Declaration) : Declaration :=
  ⟨union a.grants b.grants, combine Gpu.parallel a.gpu b.gpu, a.sandboxes.join b.sandboxes⟩

/-- The least declaration that covers one item. -/
def need : Item → Declaration
  | .network host port => ⟨[.host ⟨false, host⟩ (some port)], none, .none⟩
  | .auth name => ⟨[.auth name], none, .none⟩
  | .filesystem path access => ⟨[.filesystem path access], none, .none⟩
  | .gpu lease => ⟨[], some lease, .none⟩
  | .sandbox kind => ⟨[], none, .only kind⟩

/-- The least declaration that covers all items. -/
def infer (items : List Item) : Declaration :=
  items.foldl (fun declared item => declared.join (need item)) .nothing

/-- The items that a declaration does not cover, in order, in front of what is already there (backwards). -/
def uncoveredFrom (declared : Declaration) : List Item → List Item → List Item
  | found, [] => found.reverse
  | found, item :: items => uncoveredFrom declared (bif declared.covers item then found else item :: found) items

def uncovered (declared : Declaration) (items : List Item) : List Item := uncoveredFrom declared [] items

end Coeffect
