import pytest
import torch

from simcvd.network import VNet, _block, _run, count_parameters, head_start


def test_published_parameter_counts():
    network = VNet()
    assert count_parameters(network) == 9_448_883
    assert count_parameters(network) - count_parameters(network.distance_head) == 9_448_866


@pytest.mark.parametrize("shape", [(80, 112, 112), (96, 96, 96)])
def test_published_shapes(shape):
    with torch.device("meta"):
        output = VNet()(torch.empty(2, 1, *shape))
    assert output.logits.shape == (2, 2, *shape)
    assert output.sdm.shape == (2, 1, *shape)
    assert output.features.shape == (2, 256, *(n // 16 for n in shape))


def test_several_classes_and_channels():
    network = VNet(n_classes=3, in_channels=2, n_filters=4)
    output = network(torch.randn(2, 2, 16, 32, 16))
    assert output.logits.shape == (2, 3, 16, 32, 16)
    assert output.sdm.shape == (2, 2, 16, 32, 16)
    assert output.sdm.abs().max() <= 1


def test_side_that_cannot_be_halved_four_times_is_refused():
    with pytest.raises(ValueError, match="multiples of 16"):
        VNet(n_filters=2)(torch.zeros(1, 1, 16, 24, 16))


def test_dropout_is_on_in_training_and_off_in_evaluation():
    network = VNet(n_filters=4)
    x = torch.randn(1, 1, 32, 32, 32)
    first, second = network(x).logits, network(x).logits
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network(x).logits, network(x).logits)


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
def test_bfloat16_gradients_of_a_block_agree_with_float32(slices):
    torch.manual_seed(0)
    block = _block(1, 16, 16)
    x = torch.randn(2, 16, slices, 4, 4)
    gradients = []
    for enabled in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = _run(block, x)
        (output.float() * x).sum().backward()
        gradients.append(block[0][0].weight.grad.flatten().clone())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_parts_of_a_pass_add_up_to_it():
    network = VNet(n_filters=2).eval()
    x = torch.randn(1, 1, 32, 16, 16)
    whole = network(x)
    features, skips = network.encode(x)
    maps = list(network.decode(features, skips))
    assert all(torch.equal(a, b) for a, b in zip(network.answer(maps[-1], features), whole, strict=True))
    assert (features.shape[1], *(m.shape[1] for m in maps)) == network.widths == (32, 16, 8, 4, 2)
    assert [m.shape[2] for m in maps] == [4, 8, 16, 32]


def test_the_first_maps_cost_nothing_of_the_later_ones():
    network = VNet(n_filters=2).eval()
    network.decoder[1].register_forward_pre_hook(lambda *_: pytest.fail("not asked for"))
    assert next(network.decode(*network.encode(torch.randn(1, 1, 16, 16, 16)))).shape[2] == 2


@pytest.mark.parametrize("n_filters", [2, 16])
def test_a_head_start_answers_with_the_shares_of_the_classes(n_filters):
    network = VNet(n_classes=3, n_filters=n_filters)
    head_start(network, [0.95, 0.05, 0.0])
    nothing_seen = network.segmentation_head(torch.zeros(1, n_filters, 1, 1, 1)).softmax(1).flatten()
    torch.testing.assert_close(nothing_seen, torch.tensor([0.95, 0.05, 1e-4]), atol=1e-4, rtol=0)


def test_a_head_start_gives_each_class_channels_of_its_own():
    network = VNet(n_classes=3)
    head_start(network, [0.9, 0.05, 0.05])
    speaks_for = network.segmentation_head.weight.flatten(1) > 0
    assert (speaks_for.sum(0) == 1).all()
    assert speaks_for.sum(1).tolist() == [6, 5, 5]
