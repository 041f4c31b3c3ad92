"""Fisher vectors: how the tokens of a clip differ from the tokens of all clips.

A mean over tokens loses how tokens spread and which ones occur together. The improved Fisher vector
(Perronnin, Sanchez and Mensink, "Improving the Fisher Kernel for Large-Scale Image Classification",
ECCV 2010) keeps some of it. Tokens are projected on their first principal axes, and a mixture of
Gaussians with diagonal covariances is fitted to tokens of many clips, without labels. The vector of
a clip is the gradient of the likelihood of its tokens with respect to the means and the deviations
of the Gaussians. The place of a token in the picture and in time has no effect.

Letters: n clips for the mixture, m clips, N tokens of a clip, D channels, P axes, K Gaussians.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits  # a dependency of scikit-learn

from shared.errors import InputError

AXES = 32
GAUSSIANS = 32
TOKENS_OF_GAUSSIAN = 10  # a Gaussian needs several tokens to have a deviation
MOST_TOKENS = 30_000  # that the mixture is fitted to; more clips than this give one token each
ITERATIONS = 30
SMALLEST = 1e-6  # variance, as a share of that of the first axis, that is more than rounding


@dataclass(frozen=True)
class FisherVectors:
    """Turns the tokens of a clip into its Fisher vector of 2 * K * P numbers.

    Attributes:
        mean: float64 [D], subtracted from each token.
        basis: float64 [D, P], the principal axes.
        mixture: K Gaussians on these axes.
    """

    mean: np.ndarray
    basis: np.ndarray
    mixture: GaussianMixture

    @classmethod
    def fit(cls, tokens: np.ndarray, seed: int) -> FisherVectors:
        """Fit axes and mixture to the same number of tokens of each clip.

        The result is the same for the same tokens and seed, whatever the number of threads. Tokens
        that span few axes give fewer axes, and few tokens give fewer Gaussians.

        Args:
            tokens: float [n, N, D].
            seed: draws the tokens, and starts the mixture.

        Raises:
            InputError: the tokens that were drawn are all the same.
        """
        drawn = _draw(tokens, seed)
        distinct = len({token.tobytes() for token in drawn})
        if distinct < 2:
            raise InputError(
                "empty",
                f"the {len(drawn)} tokens of {len(tokens)} clips of split train are all the same, "
                "so that no Fisher vectors can be made of them; give another --pool or other "
                "weights",
            )
        drawn = drawn.astype(np.float64)
        mixture = GaussianMixture(
            min(GAUSSIANS, max(1, distinct // TOKENS_OF_GAUSSIAN)),
            covariance_type="diag",
            max_iter=ITERATIONS,
            random_state=seed,
        )
        # Sums of several threads differ in the last bits from run to run.
        with threadpool_limits(1), warnings.catch_warnings():
            # The mixture need not be the optimum: it only says where tokens usually lie.
            warnings.simplefilter("ignore", ConvergenceWarning)
            pca = PCA(min(AXES, *drawn.shape), svd_solver="covariance_eigh").fit(drawn)
            variances = pca.explained_variance_
            basis = pca.components_[variances > SMALLEST * variances[0]].T
            mixture.set_params(reg_covar=SMALLEST * variances[0])  # tokens have any unit
            mixture.fit((drawn - pca.mean_) @ basis)
        return cls(pca.mean_, basis, mixture)

    @property
    def axes(self) -> int:
        """P."""
        return self.basis.shape[1]

    @property
    def gaussians(self) -> int:
        """K."""
        return self.mixture.n_components

    def __call__(self, clips: Iterable[np.ndarray]) -> np.ndarray:
        """Tokens [m, N, D], or the tokens [N, D] of one clip after another -> float32 [m, 2KP].

        Each row has length 1, and signed square roots of the gradients.
        """
        return np.stack([self._of_clip(tokens) for tokens in clips])

    def _of_clip(self, tokens: np.ndarray) -> np.ndarray:
        gradients = np.concatenate(self.gradients(tokens), axis=None)
        rooted = np.sign(gradients) * np.sqrt(np.abs(gradients))
        return (rooted / max(np.linalg.norm(rooted), 1e-12)).astype(np.float32)

    def gradients(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [N, D] -> gradients float64 [K, P] with respect to means and to deviations.

        They are those of the mean log-likelihood of the tokens, divided by their usual size: the
        root of the Fisher information, sqrt(w) / deviation and sqrt(2 w) / deviation.
        """
        points = (tokens.astype(np.float64) - self.mean) @ self.basis  # [N, P]
        shares = self.mixture.predict_proba(points) / len(points)  # [N, K], they add up to 1
        means, variances = self.mixture.means_, self.mixture.covariances_  # [K, P]
        weights = self.mixture.weights_[:, None]
        # Sums over the tokens, for each Gaussian: of shares, points and squares of points.
        count = shares.sum(axis=0)[:, None]
        first = shares.T @ points
        second = shares.T @ points**2
        of_means = (first - count * means) / np.sqrt(weights * variances)
        squared = second - 2 * means * first + count * means**2
        of_deviations = (squared / variances - count) / np.sqrt(2 * weights)
        return of_means, of_deviations


def _draw(tokens: np.ndarray, seed: int) -> np.ndarray:
    """Draw the same number of tokens of each clip, at most MOST_TOKENS or one of each: [_, D]."""
    clips, of_clip, _ = tokens.shape
    rng = np.random.default_rng(seed)
    wanted = min(of_clip, max(1, MOST_TOKENS // clips))
    drawn = [each[rng.choice(of_clip, wanted, replace=False)] for each in tokens]
    return np.concatenate(drawn)
