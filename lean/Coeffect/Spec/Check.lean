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

def check (declaration evidence : Bytes) : Verdict :=
  match parseDeclaration declaration with
  | .error fault => .reject (.declaration fault) []
  | .ok declared =>
    match parseEvidence evidence with
    | .error (line, fault) => .reject (.evidence line fault) []
    | .ok evidence => judge declared evidence.items

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
