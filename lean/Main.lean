import Coeffect

/-!
The checker as a native program, for whoever wants a second opinion on the module: `checker DECLARATION EVIDENCE` reads two
files, writes the same answer as the module, and exits with 0 for an approval and 1 for a rejection.
-/
open Coeffect

def readBytes (path : String) : IO Bytes := do
  return (← IO.FS.readBinFile path).toList.map UInt8.toNat

def main : List String → IO UInt32
  | [declaration, evidence] => do
    let declaration ← readBytes declaration
    let evidence ← readBytes evidence
    let answer := checkAnswer declaration evidence
    (← IO.getStdout).write ⟨(answer.map UInt8.ofNat).toArray⟩
    return match check declaration evidence with
      | .approve => 0
      | .reject _ _ => 1
  | _ => do
    IO.eprintln "usage: checker DECLARATION EVIDENCE"
    return 2
