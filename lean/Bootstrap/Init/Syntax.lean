prelude
import Init.Core
set_option autoImplicit true

/-!
# The small Init: notation and tactics

The parsers and macros of Lean's notation and tactics lie compiled in the library that holds the compiler; a declaration
with the right name and attribute is all it takes to have them. The types below stand for Lean's own, which only the
compiled code looks into. Nothing here reaches the kernel: it checks what the elaborator made of the notation.
-/

structure String where
  data : List Nat
instance : Inhabited String := ⟨⟨List.nil⟩⟩

namespace Lean
inductive Name where
  | anonymous : Name
  | str (pre : Name) (str : String)
  | num (pre : Name) (i : Nat)
inductive ParserDescr where
  | symbol (val : String)
abbrev TrailingParserDescr := ParserDescr
inductive Syntax where
  | missing : Syntax
  | atom (val : String) : Syntax
inductive MacroResult where
  | ok (expanded state : Syntax)
  | error (exception state : Syntax)
def Macro : Type := Syntax → Syntax → Syntax → MacroResult
instance : Inhabited Macro := ⟨fun stx _ state => MacroResult.ok stx state⟩
instance : Inhabited ParserDescr := ⟨.symbol default⟩
end Lean

@[extern "lean"] opaque Lean.binderIdent : Lean.ParserDescr
@[extern "lean"] opaque Lean.unbracketedExplicitBinders : Lean.ParserDescr
@[extern "lean"] opaque Lean.bracketedExplicitBinders : Lean.ParserDescr
@[extern "lean"] opaque Lean.explicitBinders : Lean.ParserDescr
@[extern "lean", term_parser 1000] opaque «term_=_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_=_»] opaque «_aux_Init_Notation___macroRules_term_=__1» : Lean.Macro
@[extern "lean", macro «term_=_»] opaque «_aux_Init_Notation___macroRules_term_=__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_≠_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_≠_»] opaque «_aux_Init_Core___macroRules_term_≠__1» : Lean.Macro
@[extern "lean", macro «term_≠_»] opaque «_aux_Init_Core___macroRules_term_≠__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_∧_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_∧_»] opaque «_aux_Init_Notation___macroRules_term_∧__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_∨_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_∨_»] opaque «_aux_Init_Notation___macroRules_term_∨__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term¬_» : Lean.ParserDescr
@[extern "lean", macro «term¬_»] opaque «_aux_Init_Notation___macroRules_term¬__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_↔_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_↔_»] opaque «_aux_Init_Core___macroRules_term_↔__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term∃_,_» : Lean.ParserDescr
@[extern "lean", macro «term∃_,_»] opaque «_aux_Init_NotationExtra___macroRules_term∃_,__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_∈_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_∈_»] opaque «_aux_Init_Notation___macroRules_term_∈__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_∉_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_∉_»] opaque «_aux_Init_Notation___macroRules_term_∉__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_::_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_::_»] opaque «_aux_Init_Notation___macroRules_term_::__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_++_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_++_»] opaque «_aux_Init_Notation___macroRules_term_++__1» : Lean.Macro
@[extern "lean", macro «term_++_»] opaque «_aux_Init_Notation___macroRules_term_++__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_+_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_+_»] opaque «_aux_Init_Notation___macroRules_term_+__1» : Lean.Macro
@[extern "lean", macro «term_+_»] opaque «_aux_Init_Notation___macroRules_term_+__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_-_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_-_»] opaque «_aux_Init_Notation___macroRules_term_-__1» : Lean.Macro
@[extern "lean", macro «term_-_»] opaque «_aux_Init_Notation___macroRules_term_-__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_*_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_*_»] opaque «_aux_Init_Notation___macroRules_term_*__1» : Lean.Macro
@[extern "lean", macro «term_*_»] opaque «_aux_Init_Notation___macroRules_term_*__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_/_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_/_»] opaque «_aux_Init_Notation___macroRules_term_/__1» : Lean.Macro
@[extern "lean", macro «term_/_»] opaque «_aux_Init_Notation___macroRules_term_/__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_%_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_%_»] opaque «_aux_Init_Notation___macroRules_term_%__1» : Lean.Macro
@[extern "lean", macro «term_%_»] opaque «_aux_Init_Notation___macroRules_term_%__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_≤_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_≤_»] opaque «_aux_Init_Notation___macroRules_term_≤__1» : Lean.Macro
@[extern "lean", macro «term_≤_»] opaque «_aux_Init_Notation___macroRules_term_≤__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_<_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_<_»] opaque «_aux_Init_Notation___macroRules_term_<__1» : Lean.Macro
@[extern "lean", macro «term_<_»] opaque «_aux_Init_Notation___macroRules_term_<__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_≥_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_≥_»] opaque «_aux_Init_Notation___macroRules_term_≥__1» : Lean.Macro
@[extern "lean", macro «term_≥_»] opaque «_aux_Init_Notation___macroRules_term_≥__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_>_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_>_»] opaque «_aux_Init_Notation___macroRules_term_>__1» : Lean.Macro
@[extern "lean", macro «term_>_»] opaque «_aux_Init_Notation___macroRules_term_>__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_<=_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_<=_»] opaque «_aux_Init_Notation___macroRules_term_<=__1» : Lean.Macro
@[extern "lean", macro «term_<=_»] opaque «_aux_Init_Notation___macroRules_term_<=__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_>=_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_>=_»] opaque «_aux_Init_Notation___macroRules_term_>=__1» : Lean.Macro
@[extern "lean", macro «term_>=_»] opaque «_aux_Init_Notation___macroRules_term_>=__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_==_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_==_»] opaque «_aux_Init_Notation___macroRules_term_==__1» : Lean.Macro
@[extern "lean", macro «term_==_»] opaque «_aux_Init_Notation___macroRules_term_==__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_!=_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_!=_»] opaque «_aux_Init_Core___macroRules_term_!=__1» : Lean.Macro
@[extern "lean", macro «term_!=_»] opaque «_aux_Init_Core___macroRules_term_!=__2» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_&&_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_&&_»] opaque «_aux_Init_Notation___macroRules_term_&&__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_||_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_||_»] opaque «_aux_Init_Notation___macroRules_term_||__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term!_» : Lean.ParserDescr
@[extern "lean", macro «term!_»] opaque «_aux_Init_Notation___macroRules_term!__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque termIfThenElse : Lean.ParserDescr
@[extern "lean", macro termIfThenElse] opaque «_aux_Init_Notation___macroRules_termIfThenElse_1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque termDepIfThenElse : Lean.ParserDescr
@[extern "lean", macro termDepIfThenElse] opaque «_aux_Init_Notation___macroRules_termDepIfThenElse_1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_×_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_×_»] opaque «_aux_Init_Notation___macroRules_term_×__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_∘_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_∘_»] opaque «_aux_Init_Notation___macroRules_term_∘__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term[_]» : Lean.ParserDescr
@[extern "lean", macro «term[_]»] opaque Lean.«_aux_Init_Data_List_Notation___macroRules_term[_]_1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term%[_|_]» : Lean.ParserDescr
@[extern "lean", macro «term%[_|_]»] opaque «_aux_Init_NotationExtra___macroRules_term%[_|_]_1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_<|_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_<|_»] opaque «_aux_Init_Notation___macroRules_term_<|__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque «term_|>_» : Lean.TrailingParserDescr
@[extern "lean", macro «term_|>_»] opaque «_aux_Init_Notation___macroRules_term_|>__1» : Lean.Macro
@[extern "lean", term_parser 1000] opaque boolIfThenElse : Lean.ParserDescr
@[extern "lean", macro boolIfThenElse] opaque «_aux_Init_Notation___macroRules_boolIfThenElse_1» : Lean.Macro
@[extern "lean"] opaque Lean.Parser.Tactic.location : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.locationWildcard : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.locationHyp : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.locationType : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.rwRule : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.rwRuleSeq : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpPre : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpPost : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpLemma : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpErase : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpStar : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpArgs : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpArg : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.discharger : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.optConfig : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.configItem : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.posConfigItem : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.negConfigItem : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.valConfigItem : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.config : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.inductionAltLHS : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.inductionAlt : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.inductionAlts : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.elimTarget : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.caseArg : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.generalizeArg : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.dsimpArgs : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.dsimpArg : Lean.ParserDescr
@[extern "lean"] opaque Lean.Parser.Tactic.simpaArgsRest : Lean.ParserDescr
@[extern "lean"] opaque Lean.cdotTk : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.cdot : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.intro : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.intros : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.exact : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.apply : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.refine : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.constructor : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.assumption : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.contradiction : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.cases : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.induction : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.rewriteSeq : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.rwSeq : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.rwSeq] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_rwSeq_1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.rwa : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.simp : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.simpAll : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.simpa : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.dsimp : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.unfold : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.split : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.show : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticHave__ : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticHave__] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticHave___1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticLet__ : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticLet__] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticLet___1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticExfalso : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticExfalso] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticExfalso_1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.subst : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.injection : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.injections : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.revert : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.generalize : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.left : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.right : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.«tacticExists_,,» : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.«tacticExists_,,»] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticExists_,,_1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticRfl : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticRfl] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticRfl_1» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticRfl] opaque «_aux_Init_Core___macroRules_Lean_Parser_Tactic_tacticRfl_1» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticRfl] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticRfl_2» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticRfl] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticRfl_3» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.eqRefl : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.applyRfl : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.change : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.specialize : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.replace : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.clear : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.renameI : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.«tacticNext_=>_» : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.«tacticNext_=>_»] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticNext_=>__1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.case : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.«tactic_<;>_» : Lean.TrailingParserDescr
@[extern "lean", macro Lean.Parser.Tactic.«tactic_<;>_»] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tactic_<;>__1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.paren : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.first : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticTry_ : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticTry_] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticTry__1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.done : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.skip : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.allGoals : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.anyGoals : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.focus : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.decide : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticRefine_lift_ : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticRefine_lift_] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticRefine_lift__1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.withReducible : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.symm : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.congr : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.delta : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticTrivial : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticTrivial] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticTrivial_1» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticTrivial] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticTrivial_2» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticTrivial] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticTrivial_3» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticTrivial] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticTrivial_4» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticTrivial] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticTrivial_5» : Lean.Macro
@[extern "lean", macro Lean.Parser.Tactic.tacticTrivial] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticTrivial_6» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.rename : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.omega : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.fail : Lean.ParserDescr
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticSuffices_ : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticSuffices_] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticSuffices__1» : Lean.Macro
@[extern "lean", tactic_parser 1000] opaque Lean.Parser.Tactic.tacticInfer_instance : Lean.ParserDescr
@[extern "lean", macro Lean.Parser.Tactic.tacticInfer_instance] opaque Lean.Parser.Tactic.«_aux_Init_Tactics___macroRules_Lean_Parser_Tactic_tacticInfer_instance_1» : Lean.Macro
