prelude
import Init.Core
import Init.Syntax
