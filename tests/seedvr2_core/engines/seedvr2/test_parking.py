"""Parking: modules and states that wait in host memory come back as they were."""

import torch

from seedvr2_core.engines.seedvr2 import parking as residency


def test_a_guest_module_comes_and_goes() -> None:
    module = torch.nn.BatchNorm1d(3)
    guest = residency.GuestModule(module, torch.device("meta"), resident=False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for _ in range(2):
        assert {t.device.type for t in module.state_dict().values()} == {"cpu"}
        with guest.on_device() as there:
            assert {t.device.type for t in there.state_dict().values()} == {"meta"}
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
