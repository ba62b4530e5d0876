"""Answers of language models: relevance of each token, units, what leads back to the prompt, pages, others' forms."""

from relprop.explanations.answers.answer import ExplainedAnswer
from relprop.explanations.answers.forms import captum_result, save_inseq
from relprop.explanations.answers.hops import Hops
from relprop.explanations.answers.page import page, save_page
from relprop.explanations.answers.units import Spans, Unit

__all__ = ["ExplainedAnswer", "Hops", "Spans", "Unit", "captum_result", "page", "save_inseq", "save_page"]
