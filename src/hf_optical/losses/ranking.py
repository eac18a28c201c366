from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checks import check_choice, check_entries, check_number
from .inputs import reduced, without_padding, working_dtype


class RankingLoss(nn.Module):
    """
    Compare a student's ranking of documents with a teacher's scores or with relevance labels.

    A query's score of a document is its late interaction (Khattab & Zaharia 2020, arXiv 2004.12832) divided by the
    number of query tokens: the mean over them of the largest inner product with a token of the document. A softmax of
    the scores, divided by the temperature, over all documents of the batch gives a distribution. The loss of a query
    is the Kullback-Leibler divergence of the student's from the teacher's; with labels, the cross entropy.

    Args:
        temperature (`float`, *optional*, defaults to 0.2):
            In units of the mean inner product. A low temperature only asks for the best document, which is too easy
            within a batch; the scores of the other documents carry most of the signal.
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"sum"` over the queries, or `"none"`.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(self, temperature: float = 0.2, reduction: str = "mean") -> None:
        super().__init__()
        check_number("temperature", temperature, above=0)
        check_choice("reduction", reduction, ("mean", "sum", "none"))
        self.temperature = temperature
        self.reduction = reduction

    def forward(
        self,
        query_embeddings: Tensor,
        document_embeddings: Tensor,
        query_mask: Tensor,
        document_mask: Tensor,
        target: Tensor,
    ) -> Tensor:
        """
        Compute the loss of a batch of queries, each of which ranks all documents.

        Args:
            query_embeddings (`Tensor` of shape `(queries, n, dim)`): The student's unit vectors of the queries;
                padding, here and below, may hold anything.
            document_embeddings (`Tensor` of shape `(documents, m, dim)`): The unit vectors of the documents, of
                student or teacher.
            query_mask (`Tensor` of shape `(queries, n)`), document_mask (`Tensor` of shape `(documents, m)`):
                Boolean or 0/1, true for tokens.
            target (`Tensor`): The teacher's scores, of shape `(queries, documents)`, from
                [`~RankingLoss.scores`]; or the number of the relevant document of each query, integers of shape
                `(queries,)`.

        Returns:
            `Tensor`: a scalar, or of shape `(queries,)` with `reduction="none"`.
        """
        scores = self.scores(query_embeddings, document_embeddings, query_mask, document_mask)
        student = functional.log_softmax(scores / self.temperature, 1)
        if not target.is_floating_point():
            return reduced(functional.nll_loss(student, target, reduction="none"), self.reduction)
        teacher = functional.log_softmax(target.detach().to(student) / self.temperature, 1)
        losses = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return reduced(losses, self.reduction)

    @staticmethod
    def scores(
        query_embeddings: Tensor, document_embeddings: Tensor, query_mask: Tensor, document_mask: Tensor
    ) -> Tensor:
        """
        Compute every query's score of every document, with gradient; arguments as in `forward`.

        Returns:
            `Tensor` of shape `(queries, documents)`.

        Raises:
            ValueError: If a query or a document has no token, or an embedding of a token is not finite.
        """
        for name, mask in (("query_mask", query_mask), ("document_mask", document_mask)):
            check_entries(~mask.bool().any(1), f"{name} leaves no token; leave these texts out")
        dtype = working_dtype(query_embeddings, document_embeddings)
        queries = without_padding("query", query_embeddings, query_mask, dtype)
        documents = without_padding("document", document_embeddings, document_mask, dtype)
        with torch.autocast(query_embeddings.device.type, enabled=False):
            # (queries, n, documents, m): one product of all tokens, as the batches of training are small.
            inner = torch.einsum("qnd,cmd->qncm", queries, documents)
            best = inner.masked_fill(~document_mask.bool(), -torch.inf).amax(3)
            tokens = query_mask.to(dtype)
            return torch.einsum("qnc,qn->qc", best, tokens) / tokens.sum(1, keepdim=True)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, reduction={self.reduction!r}"
