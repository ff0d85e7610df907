"""Problems whose gradients are changed have no map left that would pass the change by."""

from __future__ import annotations

import pytest

from dlsim import privacy, problems
from dlsim.core import WarmProximal
from dlsim.problems.maps import MAPS

WRAPPERS = {
    "sharpness_aware": lambda p: problems.sharpness_aware(p, 0.1),
    "zeroth_order": lambda p: problems.zeroth_order(p, num_directions=2, smoothing=0.1),
    "dp_sgd": lambda p: privacy.dp_sgd(p, clip=1.0, noise_multiplier=1.0),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_maps_of_the_loss_do_not_outlive_its_gradients(name: str) -> None:
    data = problems.synthetic_classification(24, 4, 3, seed=0)
    parts = problems.partition(data, 3, problems.iid(), seed=0)
    plain = problems.supervised(problems.softmax_regression(), data, parts, batch_size=2)
    plain = plain._replace(**dict.fromkeys(MAPS, WarmProximal(None, None)))
    changed = WRAPPERS[name](plain)
    assert all(getattr(changed, known) is None for known in MAPS)
