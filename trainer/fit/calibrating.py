"""Calibrates a fitted model on the validation clicks.

Of the first ten items of every list, each is one observation: its probability, and whether it was
clicked next. The parameters maximise the likelihood of these (logistic regression on log P and
−log(1 − P)), with a prior around "as it is", so that few clicks change little.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from nextclick.shared.model import Calibration, SessionModel
from nextclick.shared.model.calibration import UNCALIBRATED, FloatArray, minus_log_rest
from nextclick.shared.windows import PADDING
from nextclick.trainer.data import Samples
from nextclick.trainer.fit.mixing import sampled

LIST_LENGTH = 10
_BOUNDS = ((0.05, None), (0.0, None), (None, None))
"""Of a, b and c: P' must increase with P."""
_PRIOR = np.array([1.0, 1.0, 0.0])
"""Mean of a normal prior with variance 1: P' = P."""
_BATCH = 256


def calibrate(model: SessionModel, validation: Samples, device: torch.device) -> Calibration:
    """The calibration for which the validation clicks are likeliest; none without such clicks.

    A click on an item that is not in the catalogue counts: no item of its list was clicked next.
    """
    known = validation.take(np.flatnonzero((validation.histories != PADDING).any(axis=1)))
    if len(known) == 0:
        return UNCALIBRATED
    cases = sampled(known)
    log_p, clicked = [], []
    with torch.inference_mode():
        catalogue = model.catalogue()
        for start in range(0, len(cases), _BATCH):
            batch = cases.take(np.arange(start, min(start + _BATCH, len(cases))))
            scores = model(torch.from_numpy(batch.histories).to(device), catalogue)
            best = scores.topk(min(LIST_LENGTH, scores.shape[1]), dim=1)
            log_p.append(best.values.cpu().numpy().astype(np.float64))
            clicked.append(best.indices.cpu().numpy() + 1 == batch.targets[:, None])
    return fit_calibration(np.concatenate(log_p).ravel(), np.concatenate(clicked).ravel())


def fit_calibration(log_p: FloatArray, clicked: npt.NDArray[np.bool_]) -> Calibration:
    """The likeliest calibration of observations [N]: log P of an item, and whether it was clicked.

    Observations that are not finite give UNCALIBRATED: the gate refuses such a model anyway.
    """
    inputs = np.stack([log_p, minus_log_rest(log_p), np.ones_like(log_p)], axis=1)
    if not np.isfinite(inputs).all():
        return UNCALIBRATED

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        """−log posterior, and its gradient."""
        logit, from_prior = inputs @ parameters, parameters - _PRIOR
        value = np.logaddexp(0.0, logit).sum() - logit[clicked].sum() + from_prior @ from_prior / 2
        probabilities = np.exp(-np.logaddexp(0.0, -logit))
        return float(value), inputs.T @ (probabilities - clicked) + from_prior

    found = minimize(
        loss, _PRIOR, jac=True, method="L-BFGS-B", bounds=_BOUNDS, options={"ftol": 1e-12}
    )
    a, b, c = found.x.tolist()
    return Calibration(a=a, b=b, c=c)
