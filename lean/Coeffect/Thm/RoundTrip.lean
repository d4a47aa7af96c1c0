import Coeffect.Thm.Normal

/-!
# Round trips

Whatever is printed is read back: evidence here, declarations in `Thm/RoundTripDeclaration.lean`. "Valid" is what the
parsers let through: normalised hosts and paths, well-formed names, and numbers of at most nine digits.
-/
namespace Coeffect

/-! ## What prints consist of -/

def isMark (byte : Byte) : Bool :=
  byte == Ascii.tilde || byte == Ascii.slash || byte == Ascii.percent || byte == Ascii.asterisk
    || byte == Ascii.greater || byte == Ascii.equal

/-- The bytes of all that stands between separators. -/
def isAtomByte (byte : Byte) : Bool := isNameByte byte || isMark byte

def isAtom (bytes : Bytes) : Bool := bytes.all isAtomByte

theorem atom_lacks {separator : Byte} {bytes : Bytes} (out : isAtomByte separator = false) (h : isAtom bytes = true) :
    lacks separator bytes = true := lacks_of_class isAtomByte out h

theorem atoms_lack {separator : Byte} {fields : List Bytes} (out : isAtomByte separator = false)
    (h : fields.all isAtom = true) : fields.all (lacks separator) = true :=
  all_iff.2 fun field hf => atom_lacks out (all_iff.1 h field hf)

theorem atom_append {a b : Bytes} (ha : isAtom a = true) (hb : isAtom b = true) : isAtom (a ++ b) = true :=
  (all_append a b).trans (and_iff.2 ⟨ha, hb⟩)

theorem atom_cons {byte : Byte} {bytes : Bytes} (hb : isAtomByte byte = true) (h : isAtom bytes = true) :
    isAtom (byte :: bytes) = true :=
  and_iff.2 ⟨hb, h⟩

theorem name_byte_is_atom {byte : Byte} (h : isNameByte byte = true) : isAtomByte byte = true := or_iff.2 (Or.inl h)

theorem digit_is_name_byte {byte : Byte} (h : isDigit byte = true) : isNameByte byte = true :=
  or_iff.2 (Or.inl (or_iff.2 (Or.inl (or_iff.2 (Or.inl (or_iff.2 (Or.inr h)))))))

theorem label_byte_is_name_byte {byte : Byte} (h : isLabelByte byte = true) : isNameByte byte = true := by
  cases or_iff.1 h with
  | inr h => exact or_iff.2 (Or.inr h)
  | inl h =>
    cases or_iff.1 h with
    | inr h => exact or_iff.2 (Or.inl (or_iff.2 (Or.inr h)))
    | inl h =>
      cases or_iff.1 h with
      | inr h => exact digit_is_name_byte h
      | inl h => exact or_iff.2 (Or.inl (or_iff.2 (Or.inl (or_iff.2 (Or.inl (or_iff.2 (Or.inl (or_iff.2 (Or.inl h)))))))))

theorem name_is_atom {name : Bytes} (h : validName name = true) : isAtom name = true :=
  all_iff.2 fun byte hb => name_byte_is_atom (all_iff.1 (and_iff.1 h).2 byte hb)

theorem number_is_atom (n : Nat) : isAtom (printNat n) = true :=
  all_iff.2 fun byte hb => name_byte_is_atom (digit_is_name_byte (all_iff.1 (printNat_digits n) byte hb))

theorem host_is_atom {host : Host} (h : validHost host = true) : isAtom (printHost host) = true :=
  all_join (p := isAtomByte) (separator := Ascii.dot) rfl fun label hl => all_iff.2 fun byte hb =>
    name_byte_is_atom (label_byte_is_name_byte (all_iff.1 (valid_label_bytes (valid_host_labels h label hl)) byte hb))

theorem hex_digit_is_atom : ∀ n : Nat, n ≤ 15 → isAtomByte (hexDigit n) = true
  | 0, _ => rfl
  | 1, _ => rfl
  | 2, _ => rfl
  | 3, _ => rfl
  | 4, _ => rfl
  | 5, _ => rfl
  | 6, _ => rfl
  | 7, _ => rfl
  | 8, _ => rfl
  | 9, _ => rfl
  | 10, _ => rfl
  | 11, _ => rfl
  | 12, _ => rfl
  | 13, _ => rfl
  | 14, _ => rfl
  | 15, _ => rfl
  | n + 16, h => absurd (Nat.le_trans (add_comm n 16 ▸ le_add 16 n) h) (not_le_of_ble (m := 16) (n := 15) rfl)

theorem safe_is_atom {byte : Byte} (h : isSafe byte = true) : isAtomByte byte = true :=
  (or_iff.1 h).elim name_byte_is_atom fun h => by
    rw [beq_iff.1 h]
    rfl

theorem encode_is_atom : ∀ {segment : Bytes}, segment.all isSegmentByte = true → isAtom (encode segment) = true
  | [], _ => rfl
  | byte :: segment, h => by
    have h := and_iff.1 h
    have ih := encode_is_atom h.2
    cases hb : isSafe byte with
    | true =>
      rw [show encode (byte :: segment) = byte :: encode segment from bif_true hb]
      exact atom_cons (safe_is_atom hb) ih
    | false =>
      rw [show encode (byte :: segment)
        = Ascii.percent :: hexDigit (byte / 16) :: hexDigit (byte % 16) :: encode segment from bif_false hb]
      have bound : byte ≤ 255 := ble_iff.1 (and_iff.1 (and_iff.1 h.1).1).2
      have high : byte / 16 ≤ 15 := Nat.le_of_succ_le_succ (div_lt (bound := 16) (k := 16) (Nat.succ_le_succ bound))
      have low : byte % 16 ≤ 15 := Nat.le_of_succ_le_succ (Nat.mod_lt byte (ble_iff.1 rfl))
      exact atom_cons rfl (atom_cons (hex_digit_is_atom _ high) (atom_cons (hex_digit_is_atom _ low) ih))

theorem segments_are_atom : ∀ {path : Path}, (path.all fun segment => segment.all isSegmentByte) = true →
    isAtom (printSegments path) = true
  | [], _ => rfl
  | segment :: segments, h => by
    have h := and_iff.1 h
    show isAtom (Ascii.slash :: (encode segment ++ printSegments segments)) = true
    exact atom_cons rfl (atom_append (encode_is_atom h.1) (segments_are_atom h.2))

theorem path_is_atom {path : Path} (h : validPath path = true) : isAtom (printPath path) = true := by
  cases path with
  | nil => rfl
  | cons segment segments => exact segments_are_atom (and_iff.1 h).2

theorem access_is_atom (access : Access) : isAtom (printAccess access) = true := by cases access <;> rfl

theorem sandbox_is_atom (kind : Sandbox) : isAtom (printSandbox kind) = true := by cases kind <;> rfl

/-! ## Parts -/

/-- Whether a number has at most nine digits. -/
def isShort (n : Nat) : Bool := Nat.ble (n + 1) (tenTo maxDigits)

theorem parse_print_short {n : Nat} (h : isShort n = true) : parseNat (printNat n) = some n := parse_printNat (ble_iff.1 h)

theorem parse_printPort {port : Nat} (h : validPort port = true) : parsePort (printNat port) = some port := by
  have short : port < tenTo maxDigits :=
    Nat.le_trans (Nat.succ_le_succ (ble_iff.1 (and_iff.1 h).2)) (ble_iff.1 rfl)
  rw [parsePort, parse_printNat short]
  exact bif_true h

theorem parse_printAccess (access : Access) : parseAccess (printAccess access) = some access := by cases access <;> rfl

theorem parse_printSandbox (kind : Sandbox) : parseSandbox (printSandbox kind) = some kind := by cases kind <;> rfl

theorem parse_name {name : Bytes} (h : validName name = true) : parseName name = some name := bif_true h

/-! ## Items -/

def shortGpu (gpu : Gpu) : Bool := validGpu gpu && (isShort gpu.count && (isShort gpu.memory && isShort gpu.sm))

def validItem : Item → Bool
  | .network host port => validHost host && validPort port
  | .auth name => validName name
  | .filesystem path _ => validPath path
  | .gpu lease => shortGpu lease
  | .sandbox _ => true

theorem item_fields_are_atoms {item : Item} (h : validItem item = true) : (itemFields item).all isAtom = true := by
  cases item with
  | network host port =>
    exact and_iff.2 ⟨rfl, and_iff.2 ⟨host_is_atom (and_iff.1 h).1, and_iff.2 ⟨number_is_atom port, rfl⟩⟩⟩
  | auth name => exact and_iff.2 ⟨rfl, and_iff.2 ⟨name_is_atom h, rfl⟩⟩
  | filesystem path access =>
    exact and_iff.2 ⟨rfl, and_iff.2 ⟨path_is_atom h, and_iff.2 ⟨access_is_atom access, rfl⟩⟩⟩
  | gpu lease =>
    exact and_iff.2 ⟨rfl, and_iff.2 ⟨number_is_atom _, and_iff.2 ⟨number_is_atom _, and_iff.2 ⟨number_is_atom _, rfl⟩⟩⟩⟩
  | sandbox kind => exact and_iff.2 ⟨rfl, and_iff.2 ⟨sandbox_is_atom kind, rfl⟩⟩

/-- **Round trip, of an item.** -/
theorem parse_item {item : Item} (h : validItem item = true) : parseItem (itemFields item) = .ok item := by
  cases item with
  | network host port =>
    have h := and_iff.1 h
    show parseNetworkItem (printHost host) (printNat port) = _
    rw [parseNetworkItem, parse_printHost h.1, parse_printPort h.2]
  | auth name =>
    show mapOk Item.auth (orFault .name (parseName name)) = _
    rw [parse_name h]
    rfl
  | filesystem path access =>
    show parseFilesystemItem (printPath path) (printAccess access) = _
    rw [parseFilesystemItem, parse_printPath h, parse_printAccess]
  | gpu lease =>
    have h := and_iff.1 h
    have h' := and_iff.1 h.2
    have h'' := and_iff.1 h'.2
    show parseGpuItem (printNat lease.count) (printNat lease.memory) (printNat lease.sm) = _
    rw [parseGpuItem, parse_print_short h'.1, parse_print_short h''.1, parse_print_short h''.2]
    exact bif_true h.1
  | sandbox kind =>
    show mapOk Item.sandbox (orFault .kind (parseSandbox (printSandbox kind))) = _
    rw [parse_printSandbox]
    rfl

/-! ## Evidence -/

def validEvidence (evidence : Evidence) : Bool :=
  validName evidence.session && (isShort evidence.items.length && (evidence.items.all validItem
    && evidence.items.any isSandboxItem))

theorem record_step {session line word : Bytes} {fields rest : List Bytes} {next : Nat} {found : List Item} {item : Item}
    (hs : split Ascii.space line = word :: fields) (hw : same word Word.close = false)
    (hr : parseRecord next word fields = .ok item) :
    parseRecords session next found (line :: rest) = parseRecords session (next + 1) (item :: found) rest := by
  show (match split Ascii.space line with
    | [] => Except.error (next, Fault.syntactic)
    | word :: fields =>
      bif same word Word.close then
        chain (atRecord next (checkClose session next fields)) fun _ => parseEnd next found.reverse rest
      else match parseRecord next word fields with
      | .error fault => .error (next, fault)
      | .ok item => parseRecords session (next + 1) (item :: found) rest) = _
  rw [hs]
  refine (bif_false hw).trans ?_
  rw [hr]

theorem close_step {session line : Bytes} {fields : List Bytes} {next : Nat} {found : List Item}
    (hs : split Ascii.space line = Word.close :: fields) (hc : checkClose session next fields = .ok ()) :
    parseRecords session next found [line] = .ok found.reverse := by
  show (match split Ascii.space line with
    | [] => Except.error (next, Fault.syntactic)
    | word :: fields =>
      bif same word Word.close then
        chain (atRecord next (checkClose session next fields)) fun _ => parseEnd next found.reverse []
      else match parseRecord next word fields with
      | .error fault => .error (next, fault)
      | .ok item => parseRecords session (next + 1) (item :: found) []) = _
  rw [hs]
  refine (bif_true (same_self Word.close)).trans ?_
  rw [hc]
  rfl

theorem number_is_not_close (n : Nat) : same (printNat n) Word.close = false :=
  eq_false_of_ne fun h => by
    have hd := printNat_digits n
    rw [same_iff.1 h] at hd
    cases hd

theorem check_close {session : Bytes} {count : Nat} (h : isShort count = true) :
    checkClose session count [session, printNat count, printNat 0] = .ok () := by
  show (bif !same session session then Except.error Fault.session
    else match parseNat (printNat count), parseNat (printNat 0) with
    | some records, some dropped =>
      bif !(records == count) then .error .sequence else bif dropped == 0 then .ok () else .error .dropped
    | _, _ => .error .number) = _
  rw [same_self, parse_print_short h, parse_print_short (n := 0) rfl]
  show (bif !(count == count) then Except.error Fault.sequence else .ok ()) = _
  rw [beq_self]
  rfl

theorem short_smaller {m n : Nat} (h : isShort n = true) (hm : m ≤ n) : isShort m = true :=
  ble_iff.2 (Nat.le_trans (Nat.succ_le_succ hm) (ble_iff.1 h))

theorem parse_recordLines {session : Bytes} (hs : validName session = true) : ∀ {items : List Item} {next : Nat} {found : List Item},
    isShort (next + items.length) = true → items.all validItem = true →
      parseRecords session next found (recordLines session next items) = .ok (found.reverse ++ items)
  | [], next, found, hn, _ => by
    have fields : split Ascii.space (join Ascii.space [Word.close, session, printNat next, printNat 0])
        = [Word.close, session, printNat next, printNat 0] :=
      split_join (atoms_lack rfl (and_iff.2 ⟨rfl, and_iff.2 ⟨name_is_atom hs,
        and_iff.2 ⟨number_is_atom next, and_iff.2 ⟨number_is_atom 0, rfl⟩⟩⟩⟩))
    rw [append_nil]
    exact close_step fields (check_close hn)
  | item :: items, next, found, hn, hi => by
    have hi := and_iff.1 hi
    have fields : split Ascii.space (join Ascii.space (printNat next :: itemFields item)) = printNat next :: itemFields item :=
      split_join (atoms_lack rfl (and_iff.2 ⟨number_is_atom next, item_fields_are_atoms hi.1⟩))
    have record : parseRecord next (printNat next) (itemFields item) = .ok item := by
      rw [parseRecord, parse_print_short (short_smaller hn (le_add next _))]
      exact (bif_true (beq_self next)).trans (parse_item hi.1)
    have rest := parse_recordLines hs (items := items) (next := next + 1) (found := item :: found)
      (by rw [succ_add]; exact hn) hi.2
    show parseRecords session next found
      (join Ascii.space (printNat next :: itemFields item) :: recordLines session (next + 1) items) = _
    rw [record_step fields (number_is_not_close next) record, rest, reverse_cons, append_assoc]
    rfl

theorem join_lacks {separator other : Byte} (differs : (separator == other) = false) : ∀ {fields : List Bytes},
    fields.all (lacks other) = true → lacks other (join separator fields) = true
  | [], _ => rfl
  | [field], h => (and_iff.1 h).1
  | field :: next :: fields, h => by
    have h := and_iff.1 h
    show lacks other (field ++ separator :: join separator (next :: fields)) = true
    exact lacks_append h.1 (and_iff.2 ⟨not_iff.2 differs, join_lacks differs h.2⟩)

theorem recordLines_lack {session : Bytes} (hs : validName session = true) : ∀ {items : List Item} {next : Nat},
    items.all validItem = true → (recordLines session next items).all (lacks Ascii.newline) = true
  | [], next, _ => and_iff.2 ⟨join_lacks (separator := Ascii.space) (other := Ascii.newline) rfl (atoms_lack rfl
      (and_iff.2 ⟨rfl, and_iff.2 ⟨name_is_atom hs, and_iff.2 ⟨number_is_atom next, and_iff.2 ⟨number_is_atom 0, rfl⟩⟩⟩⟩)), rfl⟩
  | item :: items, next, hi => by
    have hi := and_iff.1 hi
    exact and_iff.2 ⟨join_lacks (separator := Ascii.space) (other := Ascii.newline) rfl (atoms_lack rfl
      (and_iff.2 ⟨number_is_atom next, item_fields_are_atoms hi.1⟩)), recordLines_lack hs hi.2⟩

/-- **Round trip, of evidence.** Evidence is read back from its print. -/
theorem parse_printEvidence {evidence : Evidence} (h : validEvidence evidence = true) :
    parseEvidence (printEvidence evidence) = .ok evidence := by
  have h := and_iff.1 h
  have h' := and_iff.1 h.2
  have h'' := and_iff.1 h'.2
  have opening : [Word.opened, evidence.session].all isAtom = true := and_iff.2 ⟨rfl, and_iff.2 ⟨name_is_atom h.1, rfl⟩⟩
  have fields : split Ascii.space (join Ascii.space [Word.opened, evidence.session]) = [Word.opened, evidence.session] :=
    split_join (atoms_lack rfl opening)
  have whole : lines (printEvidence evidence) = some (Word.evidenceHeader :: join Ascii.space [Word.opened, evidence.session]
      :: recordLines evidence.session 0 evidence.items) :=
    lines_unlines (and_iff.2 ⟨rfl, and_iff.2 ⟨join_lacks (separator := Ascii.space) (other := Ascii.newline) rfl (atoms_lack rfl opening),
      recordLines_lack h.1 h''.1⟩⟩)
  have opened : parseOpen (join Ascii.space [Word.opened, evidence.session]) = some evidence.session := by
    rw [parseOpen, fields]
    exact parse_name h.1
  have records := parse_recordLines h.1 (items := evidence.items) (next := 0) (found := [])
    (by rw [zero_add]; exact h'.1) h''.1
  refine chain_ok.2 ⟨_, atRecord_ok.2 (bodyOf_ok.2 whole), ?_⟩
  show (match parseOpen (join Ascii.space [Word.opened, evidence.session]) with
    | none => Except.error (0, Fault.session)
    | some session => chain (parseRecords session 0 [] (recordLines evidence.session 0 evidence.items)) (sandboxed session)) = _
  rw [opened]
  exact chain_ok.2 ⟨evidence.items, records, bif_true h''.2⟩

end Coeffect
