"""Spherical k-means and the assignment of rows. Run: pytest tests/selectors/test_kmeans.py"""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.embedding.base import embedding_array, normalised, unit_vectors
from penstock.errors import ConfigError, DatasetError, MissingExtraError
from penstock.seeding import hash_ids
from penstock.selectors import artifact, kmeans
from penstock.selectors.kmeans import SIMILARITY, AssignGroups, GroupConfig, KMeans, nearest, spherical_kmeans


def clouds(rows, groups=4, dimensions=8, noise=0.05, seed=0):
    """Unit vectors around the axes, and which axis each is of."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, groups, rows)
    return normalised(np.eye(dimensions)[label] + rng.normal(0, noise, (rows, dimensions))), label


def batch(vectors, first=0):
    ids = [f"d#{first + i:04d}" for i in range(len(vectors))]
    columns = {
        "doc_id": pa.array(ids, pa.string()),
        "id_hash": pa.array(hash_ids(ids), pa.uint64()),
        "domain": pa.array(["web"] * len(ids), pa.string()),
        "embedding": embedding_array(vectors),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


matrices = st.integers(1, 9).flatmap(
    lambda d: st.tuples(
        hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(d)), elements=st.integers(-3, 3).map(float)),
        hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(d)), elements=st.integers(-3, 3).map(float)),
    )
)


@settings(deadline=None)
@given(matrices)
def test_the_nearest_centroid_has_the_largest_product_and_the_lowest_number_among_equals(pair):
    vectors, centroids = pair
    index, product = nearest(vectors, centroids)
    exact = vectors.astype(np.float64) @ centroids.astype(np.float64).T  # small integers: no rounding on either side
    for row, vector in enumerate(vectors):
        if not vector.any():
            assert (index[row], product[row]) == (-1, 0)
        else:
            assert index[row] == exact[row].argmax()
            assert product[row] == exact[row].max()


def test_a_row_is_assigned_alike_in_any_batch_to_the_last_bit():
    vectors, _ = clouds(200, groups=5, dimensions=37, noise=0.4)
    centroids = spherical_kmeans(vectors, 7, seed=1)
    whole = nearest(vectors, centroids)
    for size in (1, 3, 64):
        parts = [nearest(vectors[i : i + size], centroids) for i in range(0, 200, size)]
        assert (np.concatenate([p[0] for p in parts]) == whole[0]).all()
        assert (np.concatenate([p[1] for p in parts]) == whole[1]).all()


def test_clouds_that_stand_apart_are_found():
    vectors, label = clouds(400)
    centroids = spherical_kmeans(vectors, 4, seed=3)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(np.ones(4))
    index, _ = nearest(vectors, centroids)
    assert {len(set(index[label == group])) for group in range(4)} == {1}
    assert len(set(index)) == 4


@pytest.mark.parametrize(("rows", "clusters"), [(300, 4), (600, 2), (700, 1)])
def test_a_centroid_is_the_mean_of_all_its_rows_at_unit_length(rows, clusters):
    # 600 rows for two groups are more than the 256 a group that faiss would take a sample of
    vectors, _ = clouds(rows, noise=0.3)
    centroids = spherical_kmeans(vectors, clusters, seed=3, iterations=100)
    index, _ = nearest(vectors, centroids)
    means = normalised(np.stack([vectors[index == group].mean(axis=0) for group in range(clusters)]))
    assert centroids == pytest.approx(means, abs=1e-5)


def test_the_same_rows_and_seed_give_the_same_bytes_whatever_the_threads():
    import faiss

    vectors, _ = clouds(3000, groups=8, dimensions=32, noise=0.3)
    before = faiss.omp_get_max_threads()
    found = []
    for threads in (1, 2, 4):
        faiss.omp_set_num_threads(threads)
        found.append(spherical_kmeans(vectors, 16, seed=5).tobytes())
        assert faiss.omp_get_max_threads() == threads, "the setting is given back"
    faiss.omp_set_num_threads(before)
    assert len(set(found)) == 1
    assert spherical_kmeans(vectors, 16, seed=6).tobytes() != found[0]


def test_faiss_warns_neither_of_many_rows_nor_of_few(capfd):
    for rows, clusters in ((600, 2), (6, 4)):
        spherical_kmeans(clouds(rows)[0], clusters, seed=0)
    assert "WARNING" not in "".join(capfd.readouterr())


def test_the_sample_does_not_depend_on_how_the_rows_are_cut_and_leaves_out_rows_without_a_vector():
    vectors, _ = clouds(120)
    vectors[::7] = 0
    work = KMeans(seed=4, clusters=3, points_per_cluster=10)
    whole = work.summarise(batch(vectors))
    parts = [work.summarise(batch(vectors[i : i + 25], i)) for i in range(0, 120, 25)]
    merged = parts[3].merge(parts[0]).merge(parts[4]).merge(parts[2]).merge(parts[1])
    assert merged.rows.equals(whole.rows)
    assert whole.num_rows == 30
    assert unit_vectors(whole.rows["embedding"]).any(axis=1).all()
    assert [int(i.removeprefix("d#")) % 7 for i in whole.rows["doc_id"].to_pylist()].count(0) == 0


@pytest.fixture
def assign(tmp_path):
    centroids = np.eye(3, dtype=np.float32)
    path, digest = artifact.save(str(tmp_path), "groups", {"centroids": centroids}, {"names": ["x", "y", "z"]})
    return AssignGroups(path=path, digest=digest)


def test_rows_get_the_name_of_their_group_and_the_rounded_cosine(assign):
    given = batch(normalised(np.array([[3, 4, 0], [0, 0, 0], [0, 0, 2], [1, 1, 1]])))
    out = assign.annotate(given)
    assert out["group"].to_pylist() == ["y", "none", "z", "x"]
    assert out[SIMILARITY].to_pylist() == pytest.approx([0.8, 0.0, 1.0, 0.5773], abs=2e-4)
    assert (out[SIMILARITY].to_numpy() == np.round(out[SIMILARITY].to_numpy(), 4)).all()
    assert tuple(out) == assign.adds == ("group", SIMILARITY)


def test_the_group_may_stand_in_for_the_domain(assign):
    work = AssignGroups(path=assign.path, digest=assign.digest, as_domain=True)
    out = work.annotate(batch(np.eye(3, dtype=np.float32)[:2]))
    assert out["domain"].to_pylist() == out["group"].to_pylist() == ["x", "y"]
    assert tuple(out) == work.adds


def test_fitting_learns_groups_that_assign_the_rows_it_saw(tmp_path):
    vectors, label = clouds(200)
    work = KMeans(seed=1, clusters=4)
    made = work.fit(work.summarise(batch(vectors)), str(tmp_path))
    group = np.array(made.annotate(batch(vectors))["group"].to_pylist())
    assert {len(set(group[label == i])) for i in range(4)} == {1}
    assert set(group) == {"group-0", "group-1", "group-2", "group-3"}


def test_vectors_of_another_width_are_refused(assign):
    with pytest.raises(DatasetError, match="got vectors of 2 dimensions, expected 3"):
        assign.annotate(batch(np.eye(2, dtype=np.float32)))


def test_more_groups_than_documents_are_refused():
    work = KMeans(seed=1, clusters=6)
    vectors = np.eye(8, dtype=np.float32)[:6]
    assert work.centroids(work.summarise(batch(vectors))).shape == (6, 8)
    vectors[5] = 0
    with pytest.raises(ConfigError, match=r"group\.clusters: got 6, allowed at most 5, the documents with a vector"):
        work.centroids(work.summarise(batch(vectors)))


def test_faiss_that_is_not_there_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(kmeans.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"faiss-cpu is not installed; run: pip install 'penstock\[cpu\]'"):
        spherical_kmeans(np.eye(2, dtype=np.float32), 1, seed=0)


def test_the_defaults_are_allowed():
    assert GroupConfig() == GroupConfig(clusters=64, points_per_cluster=256, iterations=20, as_domain=False, map="pca")
    assert GroupConfig(clusters=65536).clusters == 65536
