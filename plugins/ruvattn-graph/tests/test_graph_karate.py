"""The karate club: what the demo says is what its graph and its numbers are."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

import ruvattn
from ruvattn import demo

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
pytest.importorskip("networkx")
import networkx

from ruvattn_graph import karate


@pytest.fixture(scope="module")
def club():
    return karate.load_club()


@pytest.fixture(scope="module")
def weights(club):
    return karate.attend(club)[0]


def test_the_club_is_networkxs_with_every_friendship_both_ways(club):
    expected = networkx.karate_club_graph()
    edges = set(map(tuple, club.graph.edge_index.T.tolist()))
    assert len(edges) == club.graph.num_edges == 2 * expected.number_of_edges() == 156
    assert edges == {pair for i, j in expected.edges for pair in ((i, j), (j, i))}
    assert [faction == 0 for faction in club.factions] == [data["club"] == "Mr. Hi" for _, data in expected.nodes(data=True)]


def test_features_are_where_walks_of_two_steps_lead_more_often_than_by_chance(club):
    friends = [list(networkx.karate_club_graph().neighbors(i)) for i in range(34)]
    for i in (0, 8, 16, 33):
        reached = np.zeros(34)
        for j in friends[i]:
            for k in friends[j]:
                reached[k] += 1 / (len(friends[i]) * len(friends[j]))
        chance = np.array([len(f) for f in friends]) / 156
        lift = reached / chance - 1
        np.testing.assert_allclose(club.features[i], lift / np.linalg.norm(lift), atol=1e-6)


def test_weights_are_the_softmax_of_scaled_cosines_over_friends(club, weights):
    first, second = club.graph.edge_index
    x = club.features.astype(np.float64)
    logits = np.exp(karate.SCALE * np.vecdot(x[first], x[second]))
    expected = logits / np.bincount(second, logits)[second]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_the_output_of_the_layer_is_the_mean_that_the_weights_are_for(club, weights):
    first, second = club.graph.edge_index
    mean = np.zeros((34, 34))
    np.add.at(mean, second, weights[:, None] * club.features[first])
    np.testing.assert_allclose(karate.cosine_layer(34).forward_graph(club.features, club.graph), mean, atol=1e-5)


def test_factions_are_no_input(club, weights):
    shuffled = club._replace(factions=np.random.default_rng(0).permutation(club.factions))
    assert np.array_equal(karate.attend(shuffled)[0], weights)


def test_attention_keeps_to_factions_more_than_friendships_do_except_for_two_members(club, weights):
    own = karate.own_shares(club, weights)
    even = karate.own_shares(club, (1 / club.graph.in_degrees)[club.graph.edge_index[1]])
    both = (even > 1e-9) & (even < 1 - 1e-9)
    assert own[both].mean() > even[both].mean() + 0.09
    assert (np.flatnonzero(both & (own < even)) + 1).tolist() == [9, 31]


def test_own_shares_are_those_of_friends_in_ones_own_faction(club, weights):
    own = karate.own_shares(club, weights)
    for member in (2, 8, 11):
        paid = [w for i, j, w in zip(*club.graph.edge_index, weights, strict=True) if j == member and club.factions[i] == club.factions[member]]
        assert own[member] == pytest.approx(sum(paid))


def test_the_text_says_what_the_numbers_are(club, weights):
    text = "\n".join(karate.describe(club, weights, 0.00012))
    own = karate.own_shares(club, weights)
    friends = networkx.karate_club_graph()
    even = np.array([np.mean([club.factions[j] == club.factions[i] for j in friends.neighbors(i)]) for i in range(34)])
    both = (even > 0) & (even < 1)
    first, second = club.graph.edge_index
    across = club.factions[first] != club.factions[second]
    for words in (
        "34 members, 78 friendships;", "A call takes 120 us.", f"{both.sum()} members have friends in both factions.",
        f"{even[both].mean():.0%} of these are in their", f"get {own[both].mean():.0%} of the attention",
        f"from {(both & (own > even)).sum()} members,\nless from 2 (9, 31).",
        f"The {across.sum() // 2} friendships across the split are {across.mean():.0%} of all, and get {weights[across].sum() / 34:.0%}.",
    ):  # fmt: skip
        assert words in text


def test_the_strongest_and_the_weakest_are_of_members_who_have_a_choice(club, weights):
    listed = [re.match(r" *(\d+) \(\w+\) ← (\d+) \(\w+\) +(0\.\d+)", line) for line in karate.describe(club, weights, 0.0)]
    found = [(int(m[2]) - 1, int(m[1]) - 1, float(m[3])) for m in listed if m]
    ends = club.graph.edge_index.T.tolist()
    by_edge = {(i, j): weight for (i, j), weight in zip(ends, weights.tolist(), strict=True) if club.graph.in_degrees[j] > 1}
    assert [pair for *pair, _ in found[:5]] == [list(pair) for pair in sorted(by_edge, key=lambda pair: -by_edge[pair])[:5]]
    assert [pair for *pair, _ in found[5:]] == [list(pair) for pair in sorted(by_edge, key=by_edge.get)[:3]]
    assert all(abs(by_edge[i, j] - shown) <= 5.1e-4 for i, j, shown in found)


def test_the_demo_shows_lines_that_fit_a_terminal_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    shown = demo.demonstrate("karate", tmp_path)
    assert shown.note == ""
    assert max(map(len, shown.lines)) < 80
    assert shown.pictures == (tmp_path / "ruvattn-demo-karate.png",)
    assert shown.pictures[0].read_bytes().startswith(b"\x89PNG")


def test_the_demo_is_listed_as_the_plugins():
    info = ruvattn.registry.demos()["karate"]
    assert (info.distribution, info.summary) == ("ruvattn-graph", karate.SUMMARY)


def test_without_a_folder_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = karate.show(None)
    assert shown.lines
    assert shown.pictures == ()
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_text_is_shown_and_a_note_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.collections", None)
    shown = karate.show(tmp_path)
    assert shown.lines
    assert shown.pictures == ()
    assert shown.note == "No picture: pictures of graphs need matplotlib: pip install 'ruvattn-graph[pictures]'"


def test_without_networkx_there_is_no_club_and_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match=r"the karate club comes with networkx: pip install 'ruvattn-graph\[pictures\]'"):
        karate.show(None)
