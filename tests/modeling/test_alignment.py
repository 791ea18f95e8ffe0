import pytest
import torch

from aligngpt.modeling.alignment import (
    AlignmentEmbeddings,
    AlignmentGate,
    compute_alignment_weights,
    compute_image_text_similarity,
    parse_alignment,
    segment_mean,
)
from tests import oracle

LEVELS, HIDDEN, PATCHES = 5, 6, 4
SETTINGS = ["adaptive", "local", "global", "average", 1, 3, 5, (0.1, -0.2, 0.3, 0.0, 2.0)]


@pytest.fixture
def table() -> AlignmentEmbeddings:
    torch.manual_seed(0)
    return AlignmentEmbeddings(LEVELS, HIDDEN)


def test_table_starts_xavier_uniform():
    torch.manual_seed(0)
    table = AlignmentEmbeddings(8, 4096)
    bound = (6 / (8 + 4096)) ** 0.5
    assert table.weight.abs().max() <= bound
    assert table.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_each_setting_is_the_equation_of_the_paper(table: AlignmentEmbeddings, setting):
    alpha = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
    weights = compute_alignment_weights(parse_alignment(setting, LEVELS), alpha, 2, table.weight)
    for row in range(2):
        expected = oracle.alignment_embedding(table.weight.tolist(), setting, alpha[row].tolist())
        assert table(weights)[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_levels_and_weights_can_differ_by_sample(table: AlignmentEmbeddings):
    by_level = table(compute_alignment_weights(torch.tensor([5, 1]), None, 2, table.weight))
    assert torch.equal(by_level, table.weight[[4, 0]])
    mixed = torch.rand(2, LEVELS)
    assert torch.equal(compute_alignment_weights(mixed, None, 2, table.weight), mixed)


def test_gate_equals_the_slow_loops():
    torch.manual_seed(1)
    gate = AlignmentGate(PATCHES, LEVELS, 7)
    features, words = torch.randn(3, PATCHES, HIDDEN), torch.randn(2, 5, HIDDEN)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
    rows = torch.arange(2)[:, None].expand(2, 5)
    means = segment_mean(words, mask, rows, 2)
    image_segments = torch.tensor([0, 1, 1])  # the second sample has two images
    weights = gate(compute_image_text_similarity(features, means, image_segments))
    layers = [(layer.weight.tolist(), layer.bias.tolist()) for layer in (gate.linear_1, gate.linear_2)]
    for row, images in enumerate(([0], [1, 2])):
        expected = oracle.gate_weights([features[i].tolist() for i in images], words[row][mask[row]].tolist(), *layers)
        assert weights[row].tolist() == pytest.approx(expected, abs=1e-5)
    assert weights.sum(-1).tolist() == pytest.approx([1.0, 1.0])


def test_segment_mean_is_the_same_for_packed_rows():
    torch.manual_seed(2)
    one, other = torch.randn(3, HIDDEN), torch.randn(2, HIDDEN)
    packed = torch.cat([one, other])[None]
    segments = torch.tensor([[0, 0, 0, 1, 1]])
    mask = torch.tensor([[True, False, True, True, True]])
    means = segment_mean(packed, mask, segments, 3)
    torch.testing.assert_close(means[0], one[[0, 2]].mean(0))
    torch.testing.assert_close(means[1], other.mean(0))
    assert torch.equal(means[2], torch.zeros(HIDDEN))  # a sample without such words


@pytest.mark.parametrize(
    "given, parsed", [("3", 3), (" adaptive ", "adaptive"), (1, 1), ("0,0,1,0,.5", (0, 0, 1, 0, 0.5))]
)
def test_settings_are_parsed(given, parsed):
    assert parse_alignment(given, LEVELS) == parsed


@pytest.mark.parametrize(
    "wrong",
    [
        "0",
        "6",
        0,
        6,
        True,
        "1e300,0,0,0,0",
        (0, 0, 0, 0, -101),
        "adaptiv",
        "1,2",
        "nan,0,0,0,1",
        "1,x,2,3,4",
        (1.0, 2.0),
        2.5,
        None,
    ],
)
def test_invalid_settings_list_the_valid_ones(wrong):
    with pytest.raises(ValueError, match="a level from 1 to 5, or 5 weights from -100 to 100"):
        parse_alignment(wrong, LEVELS)


@pytest.mark.parametrize("wrong", [torch.tensor([1, 2, 3]), torch.rand(2, LEVELS - 1), torch.rand(2)])
def test_tensors_of_a_wrong_shape_are_refused(table: AlignmentEmbeddings, wrong: torch.Tensor):
    with pytest.raises(ValueError, match=r"integer levels of shape \(2,\) or weights of shape \(2, 5\)"):
        compute_alignment_weights(wrong, None, 2, table.weight)
