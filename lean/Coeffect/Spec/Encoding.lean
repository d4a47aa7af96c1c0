import Coeffect.Spec.Resource

/-!
# Encodings

A declaration and the evidence are documents of lines, every line ended by a newline, so that a document cut short is
never a document. The grammar, with `SP` for one space:

    declaration = "armitage-declaration/1" LF property LF
    property    = "pure" / term *( "+" term )
    term        = "network" [ ":" pattern [ ":" port ] ] / "auth:" name / "filesystem:" path [ ":" access ]
                / "gpu" [ ":" number ] [ ":mem>=" number ] [ ":sm>=" number ] / "sandbox:" kind
    pattern     = [ "*." ] host
    access      = "ro" / "rw"                       ; ro when absent
    kind        = "wasm" / "namespace" / "microvm"

    evidence    = "armitage-evidence/1" LF "open" SP session LF *( number SP item LF )
                  "close" SP session SP number SP number LF       ; how many records, how many were dropped
    item        = "network" SP host SP port / "auth" SP name / "filesystem" SP path SP access
                / "gpu" SP number SP number SP number / "sandbox" SP kind

Hosts and paths are normalised as they are read, so `EXAMPLE.org.` is `example.org` and `/a/%2E./b//c` is `/b/c`.
Printing writes the normalised form with every default spelt out.
-/
namespace Coeffect

/-- What may be wrong with a document. -/
inductive Fault where
  | version
  | unterminated
  | word
  | syntactic
  | host
  | port
  | name
  | path
  | access
  | number
  | kind
  | duplicate
  | session
  | sequence
  | dropped
  | unclosed
  | trailing
  | unsandboxed

namespace Word
open Ascii

def declarationHeader : Bytes := [a, r, m, i, t, a, g, e, hyphen, d, e, c, l, a, r, a, t, i, o, n, slash, one]
def evidenceHeader : Bytes := [a, r, m, i, t, a, g, e, hyphen, e, v, i, d, e, n, c, e, slash, one]
def pure : Bytes := [p, u, r, e]
def network : Bytes := [n, e, t, w, o, r, k]
def auth : Bytes := [a, u, t, h]
def filesystem : Bytes := [f, i, l, e, s, y, s, t, e, m]
def gpu : Bytes := [g, p, u]
def sandbox : Bytes := [s, a, n, d, b, o, x]
def readOnly : Bytes := [r, o]
def readWrite : Bytes := [r, w]
def wasm : Bytes := [w, a, s, m]
def namespaces : Bytes := [n, a, m, e, s, p, a, c, e]
def microvm : Bytes := [m, i, c, r, o, v, m]
def memory : Bytes := [m, e, m, greater, equal]
def sm : Bytes := [s, m, greater, equal]
def opened : Bytes := [o, p, e, n]
def close : Bytes := [c, l, o, s, e]
def parent : Bytes := [dot, dot]
def here : Bytes := [dot]
def any : Bytes := [asterisk, dot]

end Word

def isEmpty : Bytes → Bool
  | [] => true
  | _ :: _ => false

/-! ## Names -/

def isNameByte (byte : Byte) : Bool :=
  isAlphanumeric byte || byte == Ascii.dot || byte == Ascii.hyphen || byte == Ascii.underscore

/-- The name of a credential, or of a session: at most 128 letters, digits, dots, hyphens and underscores. -/
def validName (name : Bytes) : Bool := !isEmpty name && atMost 128 name && name.all isNameByte

def parseName (bytes : Bytes) : Option Bytes := bif validName bytes then some bytes else none

/-! ## Hosts -/

def lower (byte : Byte) : Byte := bif isUpper byte then byte + 32 else byte

def isLabelByte (byte : Byte) : Bool :=
  isLower byte || isDigit byte || byte == Ascii.hyphen || byte == Ascii.underscore

def startsWithHyphen : Bytes → Bool
  | [] => false
  | first :: _ => first == Ascii.hyphen

/-- A normalised label (RFC 1123, and the underscore that service names have): internationalised names come as `xn--`. -/
def validLabel (label : Bytes) : Bool :=
  !isEmpty label && atMost 63 label && label.all isLabelByte
    && !startsWithHyphen label && !startsWithHyphen label.reverse

def printHost (host : Host) : Bytes := join Ascii.dot host

def validHost : Host → Bool
  | [] => false
  | label :: labels => validLabel label && labels.all validLabel && atMost 253 (printHost (label :: labels))

/-- Drops the empty label that a trailing dot, the root of the name space, leaves. -/
def dropRoot : Host → Host
  | [] => []
  | [label] => [label]
  | [label, []] => [label]
  | label :: labels => label :: dropRoot labels

/-- Letters in lower case, and no trailing dot. -/
def normaliseHost (bytes : Bytes) : Host := dropRoot (split Ascii.dot (bytes.map lower))

def parseHost (bytes : Bytes) : Option Host :=
  bif validHost (normaliseHost bytes) then some (normaliseHost bytes) else none

def asPattern (wild : Bool) : Option Host → Option HostPattern
  | none => none
  | some host => some ⟨wild, host⟩

def parsePattern : Bytes → Option HostPattern
  | first :: second :: rest =>
    bif first == Ascii.asterisk && second == Ascii.dot then asPattern true (parseHost rest)
    else asPattern false (parseHost (first :: second :: rest))
  | bytes => asPattern false (parseHost bytes)

def printPattern (pattern : HostPattern) : Bytes :=
  bif pattern.wild then Word.any ++ printHost pattern.labels else printHost pattern.labels

def validPort (port : Nat) : Bool := between 1 65535 port

def parsePort (bytes : Bytes) : Option Nat :=
  match parseNat bytes with
  | none => none
  | some port => bif validPort port then some port else none

/-! ## Paths -/

def isSafe (byte : Byte) : Bool := isNameByte byte || byte == Ascii.tilde

def hexDigit (n : Nat) : Byte := bif Nat.ble n 9 then Ascii.zero + n else Ascii.upperA + (n - 10)

def hexValue (byte : Byte) : Option Nat :=
  bif isDigit byte then some (byte - Ascii.zero)
  else bif between Ascii.upperA Ascii.upperF byte then some (byte - Ascii.upperA + 10)
  else bif between Ascii.a Ascii.f byte then some (byte - Ascii.a + 10)
  else none

/-- Percent-encodes every byte but letters, digits and `-._~` (RFC 3986, section 2.3). -/
def encode : Bytes → Bytes
  | [] => []
  | byte :: bytes =>
    bif isSafe byte then byte :: encode bytes
    else Ascii.percent :: hexDigit (byte / 16) :: hexDigit (byte % 16) :: encode bytes

/-- Puts a byte, which must not be NUL, in front of what was decoded. -/
def prepend (byte : Byte) : Option Bytes → Option Bytes
  | none => none
  | some bytes => bif byte == 0 then none else some (byte :: bytes)

/-- Undoes percent-encoding, once. Bytes that should have been encoded, and the slash excepted, make it fail. -/
def decode : Bytes → Option Bytes
  | [] => some []
  | byte :: rest =>
    bif isSafe byte || byte == Ascii.slash then prepend byte (decode rest)
    else bif byte == Ascii.percent then
      match rest with
      | high :: low :: rest =>
        match hexValue high, hexValue low with
        | some high, some low => prepend (high * 16 + low) (decode rest)
        | _, _ => none
      | _ => none
    else none

/-- The parent directory; the root is its own. The segments are backwards. -/
def up : Path → Path
  | [] => []
  | _ :: above => above

/-- Walks segments from a directory, given backwards: an empty segment or `.` stays, `..` goes up. -/
def walk : Path → Path → Path
  | directory, [] => directory.reverse
  | directory, segment :: segments =>
    bif isEmpty segment || same segment Word.here then walk directory segments
    else bif same segment Word.parent then walk (up directory) segments
    else walk (segment :: directory) segments

def normalisePath (segments : Path) : Path := walk [] segments

def parsePath (bytes : Bytes) : Option Path :=
  match decode bytes with
  | some (first :: rest) => bif first == Ascii.slash then some (normalisePath (split Ascii.slash rest)) else none
  | _ => none

def printSegments : Path → Bytes
  | [] => []
  | segment :: segments => Ascii.slash :: encode segment ++ printSegments segments

def printPath : Path → Bytes
  | [] => [Ascii.slash]
  | path => printSegments path

def parseAccess (bytes : Bytes) : Option Access :=
  bif same bytes Word.readOnly then some .readOnly
  else bif same bytes Word.readWrite then some .readWrite
  else none

def printAccess : Access → Bytes
  | .readOnly => Word.readOnly
  | .readWrite => Word.readWrite

/-! ## GPUs and sandboxes -/

def validGpu (gpu : Gpu) : Bool := Nat.ble 1 gpu.count

/-- What follows a prefix. -/
def after : Bytes → Bytes → Option Bytes
  | [], bytes => some bytes
  | _ :: _, [] => none
  | p :: ps, b :: bs => bif p == b then after ps bs else none

/-- The first argument as a number, or the default. -/
def leading (default : Nat) : List Bytes → Nat × List Bytes
  | [] => (default, [])
  | argument :: arguments =>
    match parseNat argument with
    | some n => (n, arguments)
    | none => (default, argument :: arguments)

/-- The first argument as a number after a prefix, or 0. -/
def atLeast (mark : Bytes) : List Bytes → Nat × List Bytes
  | [] => (0, [])
  | argument :: arguments =>
    match after mark argument with
    | none => (0, argument :: arguments)
    | some digits =>
      match parseNat digits with
      | some n => (n, arguments)
      | none => (0, argument :: arguments)

def parseGpu (arguments : List Bytes) : Option Gpu :=
  match leading 1 arguments with
  | (count, arguments) =>
    match atLeast Word.memory arguments with
    | (memory, arguments) =>
      match atLeast Word.sm arguments with
      | (sm, []) => bif validGpu ⟨count, memory, sm⟩ then some ⟨count, memory, sm⟩ else none
      | (_, _ :: _) => none

def parseSandbox (bytes : Bytes) : Option Sandbox :=
  bif same bytes Word.wasm then some .wasm
  else bif same bytes Word.namespaces then some .namespaces
  else bif same bytes Word.microvm then some .microvm
  else none

def printSandbox : Sandbox → Bytes
  | .wasm => Word.wasm
  | .namespaces => Word.namespaces
  | .microvm => Word.microvm

/-! ## Declarations -/

/-- One term of a property. -/
inductive Term where
  | grant (grant : Grant)
  | gpu (gpu : Gpu)
  | sandbox (kind : Sandbox)

/-- A value that must be there, or else the fault. -/
def orFault {α : Type} (fault : Fault) : Option α → Except Fault α
  | none => .error fault
  | some value => .ok value

/-- One step after another; the first fault ends it. -/
def chain {ε α β : Type} (first : Except ε α) (next : α → Except ε β) : Except ε β :=
  match first with
  | .error fault => .error fault
  | .ok value => next value

def mapOk {α β : Type} (f : α → β) : Except Fault α → Except Fault β
  | .error fault => .error fault
  | .ok value => .ok (f value)

def parseNetwork : List Bytes → Except Fault Grant
  | [] => .ok .network
  | [pattern] => mapOk (fun pattern => Grant.host pattern none) (orFault .host (parsePattern pattern))
  | [pattern, port] =>
    match parsePattern pattern, parsePort port with
    | some pattern, some port => .ok (.host pattern (some port))
    | none, _ => .error .host
    | some _, none => .error .port
  | _ => .error .syntactic

def parseFilesystem : List Bytes → Except Fault Grant
  | [path] => mapOk (fun path => Grant.filesystem path .readOnly) (orFault .path (parsePath path))
  | [path, access] =>
    match parsePath path, parseAccess access with
    | some path, some access => .ok (.filesystem path access)
    | none, _ => .error .path
    | some _, none => .error .access
  | _ => .error .syntactic

def parseTermOf (word : Bytes) (arguments : List Bytes) : Except Fault Term :=
  bif same word Word.network then mapOk Term.grant (parseNetwork arguments)
  else bif same word Word.filesystem then mapOk Term.grant (parseFilesystem arguments)
  else bif same word Word.gpu then mapOk Term.gpu (orFault .number (parseGpu arguments))
  else match arguments with
  | [argument] =>
    bif same word Word.auth then mapOk (fun name => Term.grant (.auth name)) (orFault .name (parseName argument))
    else bif same word Word.sandbox then mapOk Term.sandbox (orFault .kind (parseSandbox argument))
    else .error .word
  | _ => .error .word

def parseTerm (bytes : Bytes) : Except Fault Term :=
  match split Ascii.colon bytes with
  | [] => .error .word
  | word :: arguments => parseTermOf word arguments

def parseTerms : List Bytes → Except Fault (List Term)
  | [] => .ok []
  | field :: fields => chain (parseTerm field) fun term => mapOk (term :: ·) (parseTerms fields)

/-- Whether two terms may not stand in one property: they say the same, or both name a quantity. -/
def Term.clash : Term → Term → Bool
  | .grant a, .grant b => a.le b && b.le a
  | .gpu _, .gpu _ => true
  | .sandbox a, .sandbox b => (Sandboxes.only a).covers b
  | _, _ => false

def clashFree : List Term → Bool
  | [] => true
  | term :: terms => !(terms.any fun other => term.clash other) && clashFree terms

def grantsOf : List Term → List Grant
  | [] => []
  | .grant grant :: terms => grant :: grantsOf terms
  | _ :: terms => grantsOf terms

def gpuOf : List Term → Option Gpu
  | [] => none
  | .gpu gpu :: _ => some gpu
  | _ :: terms => gpuOf terms

def sandboxesNamed : List Term → Sandboxes
  | [] => .none
  | .sandbox kind :: terms => (Sandboxes.only kind).join (sandboxesNamed terms)
  | _ :: terms => sandboxesNamed terms

def Sandboxes.isNone (sandboxes : Sandboxes) : Bool :=
  !sandboxes.wasm && !sandboxes.namespaces && !sandboxes.microvm

/-- Whoever names no sandbox takes any. -/
def Sandboxes.orAny (named : Sandboxes) : Sandboxes := bif named.isNone then .any else named

def assemble (terms : List Term) : Declaration :=
  ⟨grantsOf terms, gpuOf terms, (sandboxesNamed terms).orAny⟩

def assembleUnique (terms : List Term) : Except Fault Declaration :=
  bif clashFree terms then .ok (assemble terms) else .error .duplicate

def parseProperty (bytes : Bytes) : Except Fault Declaration :=
  bif same bytes Word.pure then .ok .pure else chain (parseTerms (split Ascii.plus bytes)) assembleUnique

/-- The lines of a document after its first, which must be the header. -/
def bodyOf (header : Bytes) : Option (List Bytes) → Except Fault (List Bytes)
  | none => .error .unterminated
  | some [] => .error .unterminated
  | some (first :: body) => bif same first header then .ok body else .error .version

def parseOnlyLine : List Bytes → Except Fault Declaration
  | [property] => parseProperty property
  | [] => .error .unterminated
  | _ => .error .trailing

def parseDeclaration (bytes : Bytes) : Except Fault Declaration :=
  chain (bodyOf Word.declarationHeader (lines bytes)) parseOnlyLine

def printGrant : Grant → Bytes
  | .network => Word.network
  | .host pattern none => join Ascii.colon [Word.network, printPattern pattern]
  | .host pattern (some port) => join Ascii.colon [Word.network, printPattern pattern, printNat port]
  | .auth name => join Ascii.colon [Word.auth, name]
  | .filesystem path access => join Ascii.colon [Word.filesystem, printPath path, printAccess access]

def printTerm : Term → Bytes
  | .grant grant => printGrant grant
  | .gpu gpu =>
    join Ascii.colon [Word.gpu, printNat gpu.count, Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm]
  | .sandbox kind => join Ascii.colon [Word.sandbox, printSandbox kind]

def Sandboxes.terms (sandboxes : Sandboxes) : List Term :=
  match sandboxes with
  | ⟨true, true, true⟩ => []
  | ⟨wasm, namespaces, microvm⟩ =>
    (bif wasm then [.sandbox .wasm] else []) ++ (bif namespaces then [.sandbox .namespaces] else [])
      ++ (bif microvm then [.sandbox .microvm] else [])

def gpuTerms : Option Gpu → List Term
  | none => []
  | some gpu => [.gpu gpu]

def Declaration.terms (declared : Declaration) : List Term :=
  declared.grants.map Term.grant ++ (gpuTerms declared.gpu ++ declared.sandboxes.terms)

def printProperty (declared : Declaration) : Bytes :=
  match declared.terms with
  | [] => Word.pure
  | terms => join Ascii.plus (terms.map printTerm)

def printDeclaration (declared : Declaration) : Bytes :=
  unlines [Word.declarationHeader, printProperty declared]

/-! ## Evidence -/

/-- What one session recorded, from its opening to its close. -/
structure Evidence where
  session : Bytes
  items : List Item

def parseNetworkItem (host port : Bytes) : Except Fault Item :=
  match parseHost host, parsePort port with
  | some host, some port => .ok (.network host port)
  | none, _ => .error .host
  | some _, none => .error .port

def parseFilesystemItem (path access : Bytes) : Except Fault Item :=
  match parsePath path, parseAccess access with
  | some path, some access => .ok (.filesystem path access)
  | none, _ => .error .path
  | some _, none => .error .access

def parseGpuItem (count memory sm : Bytes) : Except Fault Item :=
  match parseNat count, parseNat memory, parseNat sm with
  | some count, some memory, some sm =>
    bif validGpu ⟨count, memory, sm⟩ then .ok (.gpu ⟨count, memory, sm⟩) else .error .number
  | _, _, _ => .error .number

def parseItem : List Bytes → Except Fault Item
  | [word, argument] =>
    bif same word Word.auth then mapOk Item.auth (orFault .name (parseName argument))
    else bif same word Word.sandbox then mapOk Item.sandbox (orFault .kind (parseSandbox argument))
    else .error .word
  | [word, first, second] =>
    bif same word Word.network then parseNetworkItem first second
    else bif same word Word.filesystem then parseFilesystemItem first second
    else .error .word
  | [word, first, second, third] =>
    bif same word Word.gpu then parseGpuItem first second third else .error .word
  | _ => .error .word

/-- The last line: the session that was opened, as many records as there were, and none dropped. -/
def checkClose (session : Bytes) (count : Nat) : List Bytes → Except Fault Unit
  | [name, records, dropped] =>
    bif !same name session then .error .session
    else match parseNat records, parseNat dropped with
    | some records, some dropped =>
      bif !(records == count) then .error .sequence else bif dropped == 0 then .ok () else .error .dropped
    | _, _ => .error .number
  | _ => .error .syntactic

/-- A record, which must have this number. -/
def parseRecord (number : Nat) (word : Bytes) (fields : List Bytes) : Except Fault Item :=
  match parseNat word with
  | none => .error .number
  | some n => bif n == number then parseItem fields else .error .sequence

/-- Nothing may follow the close. -/
def parseEnd (next : Nat) (items : List Item) : List Bytes → Except (Nat × Fault) (List Item)
  | [] => .ok items
  | _ :: _ => .error (next + 1, .trailing)

/-- Says at which record a fault was found. -/
def atRecord {α : Type} (number : Nat) : Except Fault α → Except (Nat × Fault) α
  | .error fault => .error (number, fault)
  | .ok value => .ok value

/-- Reads records, numbered from `next` without a gap, up to the close, which must be the last line. -/
def parseRecords (session : Bytes) : Nat → List Item → List Bytes → Except (Nat × Fault) (List Item)
  | next, _, [] => .error (next, .unclosed)
  | next, found, line :: rest =>
    match split Ascii.space line with
    | [] => .error (next, .syntactic)
    | word :: fields =>
      bif same word Word.close then
        chain (atRecord next (checkClose session next fields)) fun _ => parseEnd next found.reverse rest
      else match parseRecord next word fields with
      | .error fault => .error (next, fault)
      | .ok item => parseRecords session (next + 1) (item :: found) rest

def parseOpen (line : Bytes) : Option Bytes :=
  match split Ascii.space line with
  | [word, session] => bif same word Word.opened then parseName session else none
  | _ => none

def isSandboxItem : Item → Bool
  | .sandbox _ => true
  | _ => false

/-- Evidence must say in which sandbox the action ran. -/
def sandboxed (session : Bytes) (items : List Item) : Except (Nat × Fault) Evidence :=
  bif items.any isSandboxItem then .ok ⟨session, items⟩ else .error (0, .unsandboxed)

def parseSession : List Bytes → Except (Nat × Fault) Evidence
  | [] => .error (0, .unclosed)
  | line :: rest =>
    match parseOpen line with
    | none => .error (0, .session)
    | some session => chain (parseRecords session 0 [] rest) (sandboxed session)

/-- Reads evidence. A fault comes with the number of the record where it was found; what is wrong with the whole comes
with 0. -/
def parseEvidence (bytes : Bytes) : Except (Nat × Fault) Evidence :=
  chain (atRecord 0 (bodyOf Word.evidenceHeader (lines bytes))) parseSession

/-- The words of an item, which follow the number of its record. -/
def itemFields : Item → List Bytes
  | .network host port => [Word.network, printHost host, printNat port]
  | .auth name => [Word.auth, name]
  | .filesystem path access => [Word.filesystem, printPath path, printAccess access]
  | .gpu lease => [Word.gpu, printNat lease.count, printNat lease.memory, printNat lease.sm]
  | .sandbox kind => [Word.sandbox, printSandbox kind]

/-- The records from number `next` on, and the close. -/
def recordLines (session : Bytes) : Nat → List Item → List Bytes
  | next, [] => [join Ascii.space [Word.close, session, printNat next, printNat 0]]
  | next, item :: items => join Ascii.space (printNat next :: itemFields item) :: recordLines session (next + 1) items

def printEvidence (evidence : Evidence) : Bytes :=
  unlines (Word.evidenceHeader :: join Ascii.space [Word.opened, evidence.session]
    :: recordLines evidence.session 0 evidence.items)

end Coeffect
