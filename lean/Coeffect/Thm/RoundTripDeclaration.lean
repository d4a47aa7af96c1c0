import Coeffect.Thm.RoundTrip

/-!
# Round trip of declarations

A declaration that could have been read is read back from its print.
-/
namespace Coeffect

/-! ## Terms -/

def validGrant : Grant → Bool
  | .network => true
  | .host pattern none => validHost pattern.labels
  | .host pattern (some port) => validHost pattern.labels && validPort port
  | .auth name => validName name
  | .filesystem path _ => validPath path

def validTerm : Term → Bool
  | .grant grant => validGrant grant
  | .gpu gpu => shortGpu gpu
  | .sandbox _ => true

theorem host_lacks_asterisk {host : Host} (h : validHost host = true) : lacks Ascii.asterisk (printHost host) = true :=
  lacks_of_class (fun byte => isLabelByte byte || byte == Ascii.dot) rfl
    (all_join (p := fun byte => isLabelByte byte || byte == Ascii.dot) (separator := Ascii.dot) rfl fun label hl =>
      all_iff.2 fun byte hb => or_iff.2 (Or.inl (all_iff.1 (valid_label_bytes (valid_host_labels h label hl)) byte hb)))

theorem parse_printPattern {pattern : HostPattern} (h : validHost pattern.labels = true) :
    parsePattern (printPattern pattern) = some pattern := by
  cases pattern with
  | mk wild labels =>
    have h : validHost labels = true := h
    cases wild with
    | true =>
      show asPattern true (parseHost (printHost labels)) = _
      rw [parse_printHost h]
      rfl
    | false =>
      have exact_host : parsePattern (printHost labels) = asPattern false (parseHost (printHost labels)) := by
        have hl := host_lacks_asterisk h
        cases hp : printHost labels with
        | nil => rfl
        | cons first rest =>
          cases rest with
          | nil => rfl
          | cons second rest =>
            rw [hp] at hl
            have hf : (first == Ascii.asterisk && second == Ascii.dot) = false :=
              eq_false_of_ne fun e => ne_true_of_eq_false (not_iff.1 (and_iff.1 hl).1) (and_iff.1 e).1
            exact bif_false hf
      show parsePattern (printHost labels) = _
      rw [exact_host, parse_printHost h]
      rfl

theorem pattern_is_atom {pattern : HostPattern} (h : validHost pattern.labels = true) :
    isAtom (printPattern pattern) = true := by
  cases pattern with
  | mk wild labels =>
    cases wild with
    | true => exact atom_append (a := Word.any) rfl (host_is_atom h)
    | false => exact host_is_atom h

/-- The fields of a printed term. -/
def termFields : Term → List Bytes
  | .grant .network => [Word.network]
  | .grant (.host pattern none) => [Word.network, printPattern pattern]
  | .grant (.host pattern (some port)) => [Word.network, printPattern pattern, printNat port]
  | .grant (.auth name) => [Word.auth, name]
  | .grant (.filesystem path access) => [Word.filesystem, printPath path, printAccess access]
  | .gpu gpu => [Word.gpu, printNat gpu.count, Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm]
  | .sandbox kind => [Word.sandbox, printSandbox kind]

theorem print_term (term : Term) : printTerm term = join Ascii.colon (termFields term) := by
  cases term with
  | gpu _ => rfl
  | sandbox _ => rfl
  | grant grant =>
    cases grant with
    | host pattern port => cases port <;> rfl
    | network => rfl
    | auth _ => rfl
    | filesystem _ _ => rfl

theorem term_fields_are_atoms {term : Term} (h : validTerm term = true) : (termFields term).all isAtom = true := by
  cases term with
  | gpu gpu =>
    exact and_iff.2 ⟨rfl, and_iff.2 ⟨number_is_atom _, and_iff.2 ⟨atom_append (a := Word.memory) rfl (number_is_atom _),
      and_iff.2 ⟨atom_append (a := Word.sm) rfl (number_is_atom _), rfl⟩⟩⟩⟩
  | sandbox kind => exact and_iff.2 ⟨rfl, and_iff.2 ⟨sandbox_is_atom kind, rfl⟩⟩
  | grant grant =>
    cases grant with
    | network => rfl
    | auth name => exact and_iff.2 ⟨rfl, and_iff.2 ⟨name_is_atom h, rfl⟩⟩
    | filesystem path access =>
      exact and_iff.2 ⟨rfl, and_iff.2 ⟨path_is_atom h, and_iff.2 ⟨access_is_atom access, rfl⟩⟩⟩
    | host pattern port =>
      cases port with
      | none => exact and_iff.2 ⟨rfl, and_iff.2 ⟨pattern_is_atom h, rfl⟩⟩
      | some port =>
        exact and_iff.2 ⟨rfl, and_iff.2 ⟨pattern_is_atom (and_iff.1 h).1, and_iff.2 ⟨number_is_atom port, rfl⟩⟩⟩

theorem split_term {term : Term} (h : validTerm term = true) : split Ascii.colon (printTerm term) = termFields term := by
  have atoms := term_fields_are_atoms h
  rw [print_term]
  cases hf : termFields term with
  | nil =>
    cases term with
    | gpu _ => cases hf
    | sandbox _ => cases hf
    | grant grant =>
      cases grant with
      | host _ port => cases port <;> cases hf
      | _ => cases hf
  | cons field fields =>
    rw [hf] at atoms
    exact split_join (atoms_lack rfl atoms)

theorem after_mark (mark rest : Bytes) : after mark (mark ++ rest) = some rest := by
  induction mark with
  | nil => rfl
  | cons byte mark ih => exact (bif_true (beq_self byte)).trans ih

theorem parse_printGpu {gpu : Gpu} (h : shortGpu gpu = true) :
    parseGpu [printNat gpu.count, Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm] = some gpu := by
  have h := and_iff.1 h
  have h' := and_iff.1 h.2
  have h'' := and_iff.1 h'.2
  have count : leading 1 [printNat gpu.count, Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm]
      = (gpu.count, [Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm]) := by
    rw [leading, parse_print_short h'.1]
  have memory : atLeast Word.memory [Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm]
      = (gpu.memory, [Word.sm ++ printNat gpu.sm]) := by
    rw [atLeast, after_mark]
    show (match parseNat (printNat gpu.memory) with
      | some n => (n, [Word.sm ++ printNat gpu.sm])
      | none => _) = _
    rw [parse_print_short h''.1]
  have sm : atLeast Word.sm [Word.sm ++ printNat gpu.sm] = (gpu.sm, []) := by
    rw [atLeast, after_mark]
    show (match parseNat (printNat gpu.sm) with
      | some n => (n, [])
      | none => _) = _
    rw [parse_print_short h''.2]
  rw [parseGpu, count]
  show (match atLeast Word.memory [Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm] with
    | (memory, arguments) =>
      match atLeast Word.sm arguments with
      | (sm, []) => bif validGpu ⟨gpu.count, memory, sm⟩ then some (Gpu.mk gpu.count memory sm) else none
      | (_, _ :: _) => none) = _
  rw [memory]
  show (match atLeast Word.sm [Word.sm ++ printNat gpu.sm] with
    | (sm, []) => bif validGpu ⟨gpu.count, gpu.memory, sm⟩ then some (Gpu.mk gpu.count gpu.memory sm) else none
    | (_, _ :: _) => none) = _
  rw [sm]
  exact bif_true h.1

/-- **Round trip, of a term.** -/
theorem parse_printTerm {term : Term} (h : validTerm term = true) : parseTerm (printTerm term) = .ok term := by
  rw [parseTerm, split_term h]
  cases term with
  | gpu gpu =>
    show mapOk Term.gpu (orFault .number (parseGpu
      [printNat gpu.count, Word.memory ++ printNat gpu.memory, Word.sm ++ printNat gpu.sm])) = _
    rw [parse_printGpu h]
    rfl
  | sandbox kind =>
    show mapOk Term.sandbox (orFault .kind (parseSandbox (printSandbox kind))) = _
    rw [parse_printSandbox]
    rfl
  | grant grant =>
    cases grant with
    | network => rfl
    | auth name =>
      show mapOk (fun name => Term.grant (.auth name)) (orFault .name (parseName name)) = _
      rw [parse_name h]
      rfl
    | filesystem path access =>
      show mapOk Term.grant (parseFilesystem [printPath path, printAccess access]) = _
      rw [parseFilesystem, parse_printPath h, parse_printAccess]
      rfl
    | host pattern port =>
      cases port with
      | none =>
        show mapOk Term.grant (parseNetwork [printPattern pattern]) = _
        rw [parseNetwork, parse_printPattern h]
        rfl
      | some port =>
        have h := and_iff.1 h
        show mapOk Term.grant (parseNetwork [printPattern pattern, printNat port]) = _
        rw [parseNetwork, parse_printPattern h.1, parse_printPort h.2]
        rfl

theorem parse_printTerms : ∀ {terms : List Term}, terms.all validTerm = true →
    parseTerms (terms.map printTerm) = .ok terms
  | [], _ => rfl
  | term :: terms, h => by
    have h := and_iff.1 h
    show chain (parseTerm (printTerm term)) (fun term => mapOk (term :: ·) (parseTerms (terms.map printTerm))) = _
    rw [parse_printTerm h.1, parse_printTerms h.2]
    rfl

/-! ## Declarations -/

/-- A declaration that could have been read: valid terms that do not clash, and some sandbox that will do. -/
def validDeclaration (declared : Declaration) : Bool :=
  declared.terms.all validTerm && (clashFree declared.terms && !declared.sandboxes.isNone)

theorem grants_of_terms : ∀ (grants : List Grant) (rest : List Term),
    grantsOf (grants.map Term.grant ++ rest) = grants ++ grantsOf rest
      ∧ gpuOf (grants.map Term.grant ++ rest) = gpuOf rest
      ∧ sandboxesNamed (grants.map Term.grant ++ rest) = sandboxesNamed rest
  | [], _ => ⟨rfl, rfl, rfl⟩
  | grant :: grants, rest =>
    have ⟨h₁, h₂, h₃⟩ := grants_of_terms grants rest
    ⟨congrArg (grant :: ·) h₁, h₂, h₃⟩

/-- The terms of a declaration make up the declaration. -/
theorem assemble_terms {declared : Declaration} (h : declared.sandboxes.isNone = false) :
    assemble declared.terms = declared := by
  cases declared with
  | mk grants gpu sandboxes =>
    have ⟨h₁, h₂, h₃⟩ := grants_of_terms grants (gpuTerms gpu ++ sandboxes.terms)
    show Declaration.mk (grantsOf (grants.map Term.grant ++ (gpuTerms gpu ++ sandboxes.terms)))
      (gpuOf (grants.map Term.grant ++ (gpuTerms gpu ++ sandboxes.terms)))
      (sandboxesNamed (grants.map Term.grant ++ (gpuTerms gpu ++ sandboxes.terms))).orAny = _
    rw [h₁, h₂, h₃]
    cases sandboxes with
    | mk wasm namespaces microvm =>
      have h : (Sandboxes.mk wasm namespaces microvm).isNone = false := h
      have last : grants ++ grantsOf (gpuTerms gpu ++ (Sandboxes.mk wasm namespaces microvm).terms) = grants := by
        cases gpu <;> cases wasm <;> cases namespaces <;> cases microvm <;> exact append_nil grants
      rw [last]
      cases gpu <;> cases wasm <;> cases namespaces <;> cases microvm <;> first | rfl | cases h

theorem term_starts (term : Term) : ∃ byte rest, printTerm term = byte :: rest ∧ (byte == Ascii.p) = false := by
  rw [print_term]
  have starts (byte : Byte) (word : Bytes) (fields : List Bytes) (h : (byte == Ascii.p) = false) :
      ∃ b rest, join Ascii.colon ((byte :: word) :: fields) = b :: rest ∧ (b == Ascii.p) = false := by
    cases fields with
    | nil => exact ⟨byte, word, rfl, h⟩
    | cons field fields => exact ⟨byte, word ++ Ascii.colon :: join Ascii.colon (field :: fields), rfl, h⟩
  cases term with
  | gpu _ => exact starts _ _ _ rfl
  | sandbox _ => exact starts _ _ _ rfl
  | grant grant =>
    cases grant with
    | host _ port => cases port <;> exact starts _ _ _ rfl
    | network => exact starts _ _ _ rfl
    | auth _ => exact starts _ _ _ rfl
    | filesystem _ _ => exact starts _ _ _ rfl

theorem printTerm_lacks {separator : Byte} (out : isAtomByte separator = false) (colon : (Ascii.colon == separator) = false)
    {term : Term} (h : validTerm term = true) : lacks separator (printTerm term) = true := by
  rw [print_term]
  exact join_lacks colon (atoms_lack out (term_fields_are_atoms h))

theorem printTerms_lack {separator : Byte} (out : isAtomByte separator = false) (colon : (Ascii.colon == separator) = false) :
    ∀ {terms : List Term}, terms.all validTerm = true → (terms.map printTerm).all (lacks separator) = true
  | [], _ => rfl
  | _ :: _, h => and_iff.2 ⟨printTerm_lacks out colon (and_iff.1 h).1, printTerms_lack out colon (and_iff.1 h).2⟩

theorem property_is_not_pure (term : Term) (terms : List Term) :
    same (join Ascii.plus ((term :: terms).map printTerm)) Word.pure = false := by
  have ⟨byte, rest, hs, hb⟩ := term_starts term
  have shape : ∃ more, join Ascii.plus ((term :: terms).map printTerm) = byte :: more := by
    cases terms with
    | nil => exact ⟨rest, hs⟩
    | cons next terms =>
      refine ⟨rest ++ Ascii.plus :: join Ascii.plus ((next :: terms).map printTerm), ?_⟩
      show printTerm term ++ Ascii.plus :: join Ascii.plus ((next :: terms).map printTerm) = _
      rw [hs]
      rfl
  have ⟨more, hm⟩ := shape
  rw [hm]
  exact eq_false_of_ne fun e => ne_true_of_eq_false hb (and_iff.1 e).1

theorem print_property {declared : Declaration} {term : Term} {terms : List Term} (h : declared.terms = term :: terms) :
    printProperty declared = join Ascii.plus ((term :: terms).map printTerm) := by
  rw [printProperty, h]

theorem print_pure {declared : Declaration} (h : declared.terms = []) : printProperty declared = Word.pure := by
  rw [printProperty, h]

/-- **Round trip, of a declaration.** A declaration is read back from its print. -/
theorem parse_printDeclaration {declared : Declaration} (h : validDeclaration declared = true) :
    parseDeclaration (printDeclaration declared) = .ok declared := by
  have h := and_iff.1 h
  have h' := and_iff.1 h.2
  have whole : assemble declared.terms = declared := assemble_terms (not_iff.1 h'.2)
  have property : parseProperty (printProperty declared) = .ok declared
      ∧ lacks Ascii.newline (printProperty declared) = true := by
    cases ht : declared.terms with
    | nil =>
      rw [print_pure ht]
      rw [ht] at whole
      rw [← whole]
      exact ⟨rfl, rfl⟩
    | cons term terms =>
      rw [print_property ht]
      rw [ht] at h h' whole
      refine ⟨?_, join_lacks (separator := Ascii.plus) (other := Ascii.newline) rfl
        (printTerms_lack (separator := Ascii.newline) rfl rfl h.1)⟩
      have cut : split Ascii.plus (join Ascii.plus ((term :: terms).map printTerm)) = (term :: terms).map printTerm :=
        split_join (printTerms_lack (separator := Ascii.plus) rfl rfl h.1)
      rw [parseProperty, cut, parse_printTerms h.1]
      refine (bif_false (property_is_not_pure term terms)).trans ?_
      show assembleUnique (term :: terms) = _
      rw [assembleUnique, whole]
      exact bif_true h'.1
  have text : lines (printDeclaration declared) = some [Word.declarationHeader, printProperty declared] :=
    lines_unlines (and_iff.2 ⟨rfl, and_iff.2 ⟨property.2, rfl⟩⟩)
  exact chain_ok.2 ⟨_, bodyOf_ok.2 text, property.1⟩

end Coeffect
