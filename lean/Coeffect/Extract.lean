import Coeffect.Spec.Check

/-!
# What the host calls

The three functions that are compiled, and the text of their answers. Nothing here decides anything: `approved` is the
answer to `Verdict.approve` and, as `Thm/Answer.lean` proves, to nothing else.
-/
namespace Coeffect

namespace Word
open Ascii

def approve : Bytes := [a, p, p, r, o, v, e]
def reject : Bytes := [r, e, j, e, c, t]
def declaration : Bytes := [d, e, c, l, a, r, a, t, i, o, n]
def evidence : Bytes := [e, v, i, d, e, n, c, e]
def uncovered : Bytes := [u, n, c, o, v, e, r, e, d]
def needs : Bytes := [n, e, e, d, s]
def more : Bytes := [m, o, r, e]

end Word

open Ascii in
/-- The word for a fault, as programs read it. -/
def Fault.print : Fault → Bytes
  | .version => [v, e, r, s, i, o, n]
  | .unterminated => [u, n, t, e, r, m, i, n, a, t, e, d]
  | .word => [w, o, r, d]
  | .syntactic => [s, y, n, t, a, x]
  | .host => [h, o, s, t]
  | .port => [p, o, r, t]
  | .name => [n, a, m, e]
  | .path => [p, a, t, h]
  | .access => [a, c, c, e, s, s]
  | .number => [n, u, m, b, e, r]
  | .kind => [k, i, n, d]
  | .duplicate => [d, u, p, l, i, c, a, t, e]
  | .session => [s, e, s, s, i, o, n]
  | .sequence => [s, e, q, u, e, n, c, e]
  | .dropped => [d, r, o, p, p, e, d]
  | .unclosed => [u, n, c, l, o, s, e, d]
  | .trailing => [t, r, a, i, l, i, n, g]
  | .unsandboxed => [u, n, s, a, n, d, b, o, x, e, d]

/-- One reason, as one line: `uncovered auth x needs auth:x`. -/
def Reason.print : Reason → Bytes
  | .declaration fault => join Ascii.space [Word.declaration, fault.print]
  | .evidence line fault => join Ascii.space [Word.evidence, printNat line, fault.print]
  | .uncovered item =>
    join Ascii.space (Word.uncovered :: itemFields item ++ [Word.needs, printProperty (need item)])

/-- So many reasons are spelt out; of the others only the number is told. -/
def maxReasons : Nat := 64

def count : Nat → List Reason → Nat
  | n, [] => n
  | n, _ :: rest => count (n + 1) rest

def printReasons : Nat → List Reason → List Bytes
  | _, [] => []
  | 0, _ :: rest => [join Ascii.space [Word.more, printNat (count 1 rest)]]
  | n + 1, reason :: rest => reason.print :: printReasons n rest

def rejected (reasons : List Reason) : Bytes := unlines (Word.reject :: printReasons maxReasons reasons)

def approved : Bytes := unlines [Word.approve]

def Verdict.print : Verdict → Bytes
  | .approve => approved
  | .reject reason more => rejected (reason :: more)

def printOr : Except Reason Bytes → Bytes
  | .error reason => rejected [reason]
  | .ok bytes => bytes

@[export armitage_check]
def checkAnswer (declaration evidence : Bytes) : Bytes := (check declaration evidence).print

@[export armitage_infer]
def inferAnswer (evidence : Bytes) : Bytes := printOr (inferBytes evidence)

@[export armitage_canonical]
def canonicalAnswer (declaration : Bytes) : Bytes := printOr (canonicalBytes declaration)

end Coeffect
