import Coeffect.Spec.Bytes
import Coeffect.Spec.Resource
import Coeffect.Spec.Encoding
import Coeffect.Spec.Check
import Coeffect.Extract
