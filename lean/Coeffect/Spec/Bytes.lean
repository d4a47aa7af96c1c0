/-!
# Bytes

Everything the checker reads and writes is a list of bytes. This file has what the rest says about them: comparison,
classes of bytes, splitting and joining, lines, and decimal numbers. Whatever runs over a whole document is a loop
(`foldl`, `reverse`, an accumulator), so that its length costs no stack; whatever runs over one line may recurse.
-/
namespace Coeffect

/-- One byte, as the number below 256 that the host hands over. -/
abbrev Byte := Nat

abbrev Bytes := List Byte

/-! The bytes that the encodings name, as ASCII has them. -/
namespace Ascii

abbrev newline : Byte := 10
abbrev space : Byte := 32
abbrev percent : Byte := 37
abbrev asterisk : Byte := 42
abbrev plus : Byte := 43
abbrev hyphen : Byte := 45
abbrev dot : Byte := 46
abbrev slash : Byte := 47
abbrev zero : Byte := 48
abbrev one : Byte := 49
abbrev nine : Byte := 57
abbrev colon : Byte := 58
abbrev equal : Byte := 61
abbrev greater : Byte := 62
abbrev upperA : Byte := 65
abbrev upperF : Byte := 70
abbrev upperZ : Byte := 90
abbrev underscore : Byte := 95
abbrev a : Byte := 97
abbrev b : Byte := 98
abbrev c : Byte := 99
abbrev d : Byte := 100
abbrev e : Byte := 101
abbrev f : Byte := 102
abbrev g : Byte := 103
abbrev h : Byte := 104
abbrev i : Byte := 105
abbrev j : Byte := 106
abbrev k : Byte := 107
abbrev l : Byte := 108
abbrev m : Byte := 109
abbrev n : Byte := 110
abbrev o : Byte := 111
abbrev p : Byte := 112
abbrev q : Byte := 113
abbrev r : Byte := 114
abbrev s : Byte := 115
abbrev t : Byte := 116
abbrev u : Byte := 117
abbrev v : Byte := 118
abbrev w : Byte := 119
abbrev x : Byte := 120
abbrev y : Byte := 121
abbrev z : Byte := 122
abbrev tilde : Byte := 126

end Ascii

/-- Whether two byte strings are equal. -/
def same : Bytes → Bytes → Bool
  | [], [] => true
  | x :: xs, y :: ys => x == y && same xs ys
  | _, _ => false

/-- Whether two lists of byte strings are equal. -/
def sameList : List Bytes → List Bytes → Bool
  | [], [] => true
  | x :: xs, y :: ys => same x y && sameList xs ys
  | _, _ => false

/-- Whether a byte lies in a range, both ends included. -/
def between (low high byte : Byte) : Bool := Nat.ble low byte && Nat.ble byte high

def isDigit (byte : Byte) : Bool := between Ascii.zero Ascii.nine byte
def isLower (byte : Byte) : Bool := between Ascii.a Ascii.z byte
def isUpper (byte : Byte) : Bool := between Ascii.upperA Ascii.upperZ byte
def isAlphanumeric (byte : Byte) : Bool := isLower byte || isUpper byte || isDigit byte

/-- Puts a byte in front of a document that is already cut into fields. -/
def cut (separator byte : Byte) : List Bytes → List Bytes
  | [] => [[byte]]
  | field :: fields => bif byte == separator then [] :: field :: fields else (byte :: field) :: fields

/-- Cuts a byte string, given backwards, at every separator. -/
def splitReversed (separator : Byte) (reversed : Bytes) : List Bytes :=
  reversed.foldl (fun fields byte => cut separator byte fields) [[]]

/-- Cuts a byte string at every separator: `"a:b"` at `:` is `["a", "b"]`, and the empty string is one empty field. -/
def split (separator : Byte) (bytes : Bytes) : List Bytes := splitReversed separator bytes.reverse

/-- The inverse of `split`, for fields without the separator. -/
def join (separator : Byte) : List Bytes → Bytes
  | [] => []
  | [field] => field
  | field :: fields => field ++ separator :: join separator fields

/-- The lines of a document, every one of which, the last included, ends with a newline. -/
def lines (bytes : Bytes) : Option (List Bytes) :=
  match bytes.reverse with
  | [] => none
  | last :: reversed => bif last == Ascii.newline then some (splitReversed Ascii.newline reversed) else none

/-- The inverse of `lines`. -/
def unlines (all : List Bytes) : Bytes := join Ascii.newline all ++ [Ascii.newline]

/-- Numbers have at most nine digits, so that no arithmetic on them leaves the small integers of any runtime. -/
def maxDigits : Nat := 9

/-- The decimal digits of a number, in front of what is already there. -/
def digits : Nat → Nat → Bytes → Bytes
  | 0, _, after => after
  | fuel + 1, n, after =>
    bif Nat.ble n 9 then (Ascii.zero + n) :: after else digits fuel (n / 10) ((Ascii.zero + n % 10) :: after)

def printNat (n : Nat) : Bytes := digits maxDigits n []

/-- Whether a byte string is no longer than so many bytes. -/
def atMost : Nat → Bytes → Bool
  | _, [] => true
  | 0, _ :: _ => false
  | n + 1, _ :: rest => atMost n rest

/-- The number that decimal digits stand for. -/
def value (bytes : Bytes) : Nat := bytes.foldl (fun n byte => n * 10 + (byte - Ascii.zero)) 0

/-- Reads a number exactly as `printNat` writes it: digits only, no leading zero, no sign, at most nine digits. -/
def parseNat (bytes : Bytes) : Option Nat :=
  bif atMost maxDigits bytes && bytes.all isDigit && same (printNat (value bytes)) bytes then some (value bytes) else none

end Coeffect
