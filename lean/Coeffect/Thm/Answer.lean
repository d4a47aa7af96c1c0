import Coeffect.Thm.Decision

/-!
# The answer

The text that the host reads says `approve` exactly when the verdict is one.
-/
namespace Coeffect

theorem join_starts {separator byte : Byte} {first : Bytes} : ∀ {fields : List Bytes},
    ∃ rest, join separator ((byte :: first) :: fields) = byte :: rest
  | [] => ⟨first, rfl⟩
  | field :: fields => ⟨first ++ separator :: join separator (field :: fields), rfl⟩

/-- A rejection never reads like an approval. -/
theorem rejected_is_not_approved (reasons : List Reason) : rejected reasons ≠ approved := fun h => by
  have ⟨rest, hr⟩ := join_starts (separator := Ascii.newline) (byte := Ascii.r)
    (first := [Ascii.e, Ascii.j, Ascii.e, Ascii.c, Ascii.t]) (fields := printReasons maxReasons reasons)
  have h : join Ascii.newline (Word.reject :: printReasons maxReasons reasons) ++ [Ascii.newline] = approved := h
  have hr : join Ascii.newline (Word.reject :: printReasons maxReasons reasons) = Ascii.r :: rest := hr
  rw [hr] at h
  injection h with h _
  exact absurd h (fun h => (by cases h))

/-- The host reads `approve` exactly when `check` approves. -/
theorem answer_is_the_verdict {declaration evidence : Bytes} :
    checkAnswer declaration evidence = approved ↔ check declaration evidence = .approve := by
  show (check declaration evidence).print = approved ↔ _
  cases check declaration evidence with
  | approve => exact ⟨fun _ => rfl, fun _ => rfl⟩
  | reject reason more => exact ⟨fun h => absurd h (rejected_is_not_approved (reason :: more)), fun h => (by cases h)⟩

end Coeffect
