"""Graphs from files as people have them: edge lists, adjacency lists, Matrix Market; plain or compressed with gzip."""

from __future__ import annotations

import dataclasses
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.edge_pairs import Pairs, read_pairs
from dlsim.networks.graphs.graph import graph
from dlsim.networks.graphs.graph_texts import INTEGER, NO_WEIGHTS, Lines, Source, read_lines
from dlsim.networks.graphs.labels import named
from dlsim.networks.graphs.normalizing import check_normalize
from dlsim.networks.graphs.topologies import Weights
from dlsim.networks.graphs.weighted_edges import default_weights, matrix_network, weighted_network
from dlsim.networks.network import Network, connect
from dlsim.networks.pace.sizes import check_size

FORMS = ("auto", "edges", "adjacency", "neighbors", "matrix_market")
_FEW = 2**20  # nodes that do no harm, be they there or not
_SPARSE = 8  # ids up to so many times their number are taken for positions


class GraphFile(NamedTuple):
    """What a graph file says, `M` lines or entries in its order."""

    num_nodes: int
    senders: np.ndarray  # int64 [M] positions
    receivers: np.ndarray  # int64 [M]
    values: (
        np.ndarray | None
    )  # float64 [M] of the third column or the matrix; None: there are none, or they were left out
    names: tuple[int | str | None, ...] | None  # [N] what the file calls each node; None: by its position
    form: str

    def __repr__(self) -> str:
        held = [f"with {name}" for name in ("values", "names") if getattr(self, name) is not None]
        return f"GraphFile({', '.join([f'{self.num_nodes} nodes', f'{len(self.senders)} lines', self.form, *held])})"


def from_edge_list(
    edges: Any,
    *,
    num_nodes: int | None = None,
    directed: bool = False,
    renumber: bool = False,
    weights: Weights | None = None,
    normalize: str | None = None,
    form: str = "auto",
    lowering: str = "auto",
) -> Network:
    """A Network from pairs (sender, receiver), or from a file of them, see `read_graph_file` for the forms it may have.

    A third column, on every line or on none, holds W[receiver, sender] (of both directions, unless `directed`), a loop's
    an entry of the diagonal.  Where no loop says the diagonal, it is 0 if rows or columns then sum to one, else what makes
    the node's row sum to one.  A Matrix Market file with values holds W as `from_matrix` takes it.

    Args:
      edges: the name of a file; or pairs, in any iterable or an array `[E, 2]`, or triples with a weight each.
      num_nodes: N; default what the file says, or else the largest id plus one.
      directed: whether a line is one direction only.
      renumber: whether ids, any integers or names, are replaced by their ranks (`read_graph_file` tells which is which);
        else they must be in 0..N-1.  The network keeps them as its `labels.names`.
      weights: as in `connect`; what else than two ids a line has is then left out.  Default: those of the third column;
        without one `"metropolis_hastings"`, or `"row_stochastic"` for a directed graph.
      normalize: what makes mixing weights of any weights >= 0: `"row"` or `"column"`, which divide by sums, or
        `"sinkhorn"`, which scales rows and columns until both sum to one (and is refused where that cannot be).  Where
        no loop says the diagonal, it is then the mean weight of the node's edges, as if it were one more neighbour.
      form: as in `read_graph_file`.
      lowering: as in `connect`.
    """
    where = "from_edge_list"
    checks.flag(where, "directed", directed)
    check_normalize(where, normalize)
    if normalize is not None and weights is not None:
        checks.fail(where, "weights", "None where normalize is given", checks.describe(weights))
    is_path = isinstance(edges, str | Path)
    read = _read if is_path else _read_pairs
    file = read(where, edges, num_nodes, renumber, form, weights is None)
    if normalize is not None and file.values is None:
        got = "a file without" if is_path else "pairs without"
        checks.fail(where, "normalize", "None where no weights are given", got, "Leave it out.")
    if file.form == "matrix_market" and file.values is not None:
        from scipy.sparse import coo_array

        entries = (file.values, (file.receivers, file.senders))
        return matrix_network(where, coo_array(entries, shape=(file.num_nodes,) * 2), lowering, NO_WEIGHTS, normalize)
    one = graph(file.num_nodes, file.senders, file.receivers, is_directed=directed)
    one = dataclasses.replace(one, labels=named(file.names))
    if file.values is None:
        return connect(one, default_weights(one, weights), lowering)
    columns = (file.senders, file.receivers, file.values)
    fix = f'{NO_WEIGHTS.removesuffix(".")}, or normalize="row".'
    options: dict[str, Any] = {"both_ways": not directed, "lowering": lowering, "fix": fix, "normalize": normalize}
    return weighted_network(where, one, columns, **options)


def read_graph_file(
    path: str | Path,
    *,
    num_nodes: int | None = None,
    renumber: bool = False,
    form: str = "auto",
    values: bool = True,
) -> GraphFile:
    """The edges of a file, and what it calls the nodes.

    | form            | a line                                                                | "auto" takes for it          |
    |-----------------|-----------------------------------------------------------------------|------------------------------|
    | `edges`         | `sender receiver [weight]`; the first may be N alone (decentralizepy) | all others                   |
    | `adjacency`     | a node and those it sends to (networkx)                               | `.adj`, `.adjlist`           |
    | `neighbors`     | the first is N; then line k has those that node k sends to            | such a `.adj`                |
    | `matrix_market` | entry (i, j) of a matrix: i hears j, as in `from_matrix`              | what begins `%%MatrixMarket` |

    Columns are split by blanks, tabs, commas or semicolons.  Lines that begin with `#` or `%` are comments, and so is what
    follows a blank and a `#`.  `{}` at the end of a line, as networkx writes it, is left out, but for a `weight` in it.
    Files may be compressed with gzip.

    Args:
      path: the file.
      num_nodes: N; default what the file says, or else the largest id plus one.
      renumber: whether ids, any integers or names, are replaced by their ranks; else they must be in 0..N-1.
      form: one of the above, or `"auto"`.
      values: whether to read the third column; else what follows two ids is left out.
    Returns: a GraphFile; its `names[p]` is what the file calls node p.
    """
    return _read("read_graph_file", path, num_nodes, renumber, form, values)


def _read(where: str, path: Any, num_nodes: int | None, renumber: bool, form: str, values: bool) -> GraphFile:
    checks.one_of(where, "form", form, FORMS)
    checks.flag(where, "renumber", renumber)
    checks.flag(where, "values", values)
    if num_nodes is not None:
        check_size(where, checks.integer(where, "num_nodes", num_nodes, 1))
    if not isinstance(path, str | Path):
        fix = "Pairs in memory go to from_edge_list."
        checks.fail(where, "path", "the name of a text file", type(path).__name__, fix)
    source = Source(where, path)
    content = _content(source)
    if form == "matrix_market" or (form == "auto" and content.startswith("%%MatrixMarket")):
        return _matrix_market(source, content, num_nodes, values)
    lines = read_lines(source, content, form, renumber, values)
    if not lines.ends and not lines.alone:
        checks.fail(where, "path", "a file with at least one edge", repr(str(path)))
    said = lines.num_nodes
    if said is not None and num_nodes is not None and said != num_nodes:
        checks.fail(where, "num_nodes", f"{said}, as the first line of {path} says", num_nodes)
    total = said if num_nodes is None else num_nodes
    ends, names, smallest = _numbered(source, lines, total is None, renumber)
    total = smallest if total is None else total
    if total < smallest and names is None and said is not None:
        fix = "Pass renumber=True if it counts from 1."
        checks.fail(where, f"ids of {path}", f"below N = {said}, as its first line says", smallest - 1, fix)
    check_size(where, checks.integer(where, "num_nodes", total, smallest), argument=f"the graph of {path}")
    column = None if lines.values is None else np.array(lines.values, np.float64)
    if names is not None:
        names += (None,) * (total - len(names))
    return GraphFile(total, ends[:, 0], ends[:, 1], column, names, lines.form)


def _content(source: Source) -> str:
    try:
        data = Path(source.path).expanduser().read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        is_wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        return data.decode("utf-16" if is_wide else "utf-8-sig")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{source.where}: path must be a readable text file, got {str(source.path)!r} ({reason})."
        ) from None


def _matrix_market(source: Source, content: str, num_nodes: int | None, values: bool) -> GraphFile:
    from scipy.io import mmread
    from scipy.sparse import coo_array

    try:
        matrix = mmread(io.BytesIO(content.encode()))
    except Exception as error:  # its reader has errors of many kinds
        reason = " ".join(str(error).split())
        checks.fail(source.where, "path", "a Matrix Market file", f"{str(source.path)!r} ({reason})")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        checks.fail(source.where, f"the matrix of {source.path}", "of shape [N, N]", str(list(matrix.shape)))
    if num_nodes not in (None, matrix.shape[0]):
        checks.fail(source.where, "num_nodes", f"{matrix.shape[0]}, as {source.path} says", num_nodes)
    if np.iscomplexobj(matrix):
        checks.fail(source.where, f"the matrix of {source.path}", "real", "complex numbers")
    entries = coo_array(matrix)
    check_size(source.where, int(matrix.shape[0]), entries.nnz, argument=f"the graph of {source.path}")
    is_pattern = "pattern" in content.partition("\n")[0].lower()
    column = entries.data if values and not is_pattern else None
    senders, receivers = entries.col.astype(np.int64), entries.row.astype(np.int64)
    return GraphFile(int(matrix.shape[0]), senders, receivers, column, None, "matrix_market")


def _numbered(
    source: Source, lines: Lines, is_open: bool, renumber: bool
) -> tuple[np.ndarray, tuple[int | str | None, ...] | None, int]:
    """Positions `[M, 2]`, the names behind them where ids are replaced, and the smallest N; `is_open`: nobody says N."""
    flat: list[Any] = [end for pair in lines.ends for end in pair]
    length = len(flat)
    flat += lines.alone
    is_whole = all(INTEGER.fullmatch(end) for end in flat)
    if is_whole:
        flat = [int(end) for end in flat]
    return _placed(source, flat, length, is_whole, is_open, renumber)


def _read_pairs(where: str, given: Any, num_nodes: int | None, renumber: bool, form: str, values: bool) -> GraphFile:
    """Pairs in memory as a file would hold them."""
    checks.one_of(where, "form", form, FORMS)
    checks.flag(where, "renumber", renumber)
    if form not in ("auto", "edges"):
        checks.fail(where, "form", '"auto" or "edges" for pairs', repr(form))
    if num_nodes is not None:
        check_size(where, checks.integer(where, "num_nodes", num_nodes, 1))
    pairs: Pairs = read_pairs(where, given, values)
    if not pairs.is_whole and not renumber:
        odd = next(end for end in pairs.ends if not INTEGER.fullmatch(end))
        checks.fail(where, "edges", "between integers", repr(odd), "Pass renumber=True where nodes have names.")
    source = Source(where, "edges")
    ends, names, smallest = _placed(source, pairs.ends, len(pairs.ends), pairs.is_whole, num_nodes is None, renumber)
    total = smallest if num_nodes is None else checks.integer(where, "num_nodes", num_nodes, smallest)
    check_size(where, total, argument="the graph of edges")
    names = None if names is None else names + (None,) * (total - len(names))
    return GraphFile(total, ends[:, 0], ends[:, 1], pairs.values, names, "edges")


def _placed(
    source: Source, flat: list[Any], length: int, is_whole: bool, is_open: bool, renumber: bool
) -> tuple[np.ndarray, tuple[int | str | None, ...] | None, int]:
    try:
        ids, places = np.unique(np.array(flat, np.int64 if is_whole else np.str_), return_inverse=True)
    except OverflowError:
        ids, places = np.unique(np.array(flat, object), return_inverse=True)
    if renumber:
        return places.ravel()[:length].reshape(-1, 2), tuple(ids.tolist()), len(ids)
    low, smallest = int(ids[0]), int(ids[-1]) + 1
    if is_open and smallest > _FEW and smallest > _SPARSE * len(ids):
        fix = f"Pass renumber=True to number them by rank, or num_nodes={smallest} if all of these nodes are there."
        checks.fail(
            source.where,
            f"ids of {source.path}",
            "0..N-1, and most of them used",
            f"{len(ids)} ids up to {smallest - 1}",
            fix,
        )
    if is_open and low == 1 and len(ids) == smallest - 1:
        got = f"1..{smallest - 1}, which leaves node 0 alone"
        fix = f"Pass renumber=True if it counts from 1, or num_nodes={smallest} if node 0 is there."
        checks.fail(source.where, f"ids of {source.path}", "counted from 0", got, fix)
    if is_open:
        check_size(source.where, smallest, argument=f"the graph of {source.path}")
    if low < 0:
        checks.fail(source.where, f"ids of {source.path}", f"between 0 and {smallest - 1}", low, "Pass renumber=True.")
    return np.array(flat[:length], np.int64).reshape(-1, 2), None, smallest
