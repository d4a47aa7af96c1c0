import Coeffect.Spec.Encoding

/-!
# The decision

`check` is the whole checker: two byte strings in, a verdict out. It approves exactly when both documents are well
formed, the session is complete, and the declaration covers every item of the evidence. Every rejection says why.
-/
namespace Coeffect

inductive Reason where
  | declaration (fault : Fault)
  | evidence (line : Nat) (fault : Fault)
  | uncovered (item : Item)

inductive Verdict where
  | approve
  | reject (reason : Reason) (more : List Reason)

/-- Decides about values: the part of `check` after parsing. -/
def judge (declared : Declaration) (items : List Item) : Verdict :=
  match uncovered declared items with
  | [] => .approve
  | item :: more => .reject (.uncovered item) (more.map .uncovered)

/-- Decides about a declaration, once it is read, and evidence, once it is read. -/
def conclude : Except Fault Declaration → Except (Nat × Fault) Evidence → Verdict
  | .error fault, _ => .reject (.declaration fault) []
  | .ok _, .error (record, fault) => .reject (.evidence record fault) []
  | .ok declared, .ok used => judge declared used.items

def check (declaration evidence : Bytes) : Verdict :=
  conclude (parseDeclaration declaration) (parseEvidence evidence)

/-- The least declaration that `check` approves for this evidence, as bytes; or why the evidence is no evidence. -/
def inferBytes (evidence : Bytes) : Except Reason Bytes :=
  match parseEvidence evidence with
  | .error (line, fault) => .error (.evidence line fault)
  | .ok evidence => .ok (printDeclaration (infer evidence.items))

/-- A declaration in normal form, every default spelt out. -/
def canonicalBytes (declaration : Bytes) : Except Reason Bytes :=
  match parseDeclaration declaration with
  | .error fault => .error (.declaration fault)
  | .ok declared => .ok (printDeclaration declared)

end Coeffect
