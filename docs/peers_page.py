"""The page of decentralised methods: what other simulators call them, and what they are here."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import NamedTuple

INTRODUCTION = """\
# Methods of other simulators

Every decentralised method that other simulators have, by the name it has there, and the call that makes it here. What
stands in brackets after a call are the arguments that make the difference; the rest is in its {doc}`reference
<reference/index>`. Versions looked at: decent-bench 0.3.0, gossipy (January 2024), decentralizepy (March 2024), dasklearn
(June 2025), fluke 0.8.1. Many methods here have no counterpart there: see {py:obj}`dlsim.algorithms`.
"""
PEERS = ("decent-bench", "gossipy", "decentralizepy", "dasklearn", "fluke")


class Row(NamedTuple):
    """A method: its name, the peers that have it and how they call it, and what makes it here ("" if nothing does)."""

    method: str
    there: dict[str, str]
    here: str
    note: str = ""


def _bench(method: str, name: str, here: str, note: str = "") -> Row:
    return Row(method, {"decent-bench": name}, here, note)


ROWS = (
    Row("D-SGD, combine then adapt", {"decent-bench": "DGD"}, 'algorithms.dsgd(order="combine_then_adapt")'),
    Row(
        "D-SGD, adapt then combine",
        {"decent-bench": "ATC", "decentralizepy": "Sharing", "dasklearn": "dpsgd", "gossipy": "All2AllGossipNode"},
        "algorithms.dsgd()",
    ),
    Row(
        "federated averaging", {"decentralizepy": "FederatedParameterServer", "dasklearn": "fl"}, "algorithms.fedavg()"
    ),
    _bench("EXTRA", "EXTRA", "algorithms.extra()"),
    _bench("simple gradient tracking", "SimpleGT", "algorithms.extra(theta=1.0)", "EXTRA with W~ = I"),
    _bench("NIDS", "NIDS", "algorithms.nids()"),
    _bench("exact diffusion", "ED", "algorithms.exact_diffusion()"),
    _bench("gradient tracking, Aug-DGM", "AugDGM", "algorithms.gradient_tracking()"),
    _bench(
        "gradient tracking, NEXT and SONATA",
        "ATC_Tracking",
        'algorithms.gradient_tracking(tracker_order="combine_then_adapt")',
    ),
    _bench("gradient tracking, GT-SAGA", "GT_SAGA", "algorithms.gradient_tracking(estimator=algorithms.saga())"),
    _bench("gradient tracking, GT-SARAH", "GT_SARAH", "algorithms.gradient_tracking(estimator=algorithms.sarah())"),
    _bench("gradient tracking, GT-VR", "GT_VR", "algorithms.gradient_tracking(estimator=algorithms.svrg())"),
    _bench("K-GT", "KGT", "algorithms.k_gt()"),
    _bench("LED", "LED", "algorithms.led()"),
    _bench("ProxSkip", "ProxSkip", "algorithms.proxskip()"),
    _bench("Wang-Elia", "WangElia", "algorithms.wang_elia()"),
    _bench("ADMM over edges", "ADMM", "algorithms.decentralized_admm()"),
    _bench("DLM, linearised ADMM", "DLM", "algorithms.decentralized_admm(num_local_steps=1)"),
    _bench("DiNNO", "DiNNO", "algorithms.decentralized_admm(optimizer=optax.adam)"),
    _bench("LT-ADMM", "LT_ADMM", "algorithms.lt_admm()"),
    _bench("LT-ADMM with variance reduction", "LT_ADMM_VR", "algorithms.lt_admm(estimator=algorithms.saga())"),
    _bench("ADMM-tracking gradient", "ATG", "algorithms.admm_tracking_gradient()"),
    Row("MATCHA", {}, "networks.matcha()", "asked for of several; a network that draws its matchings"),
    Row(
        "gossip learning, push", {"gossipy": "GossipNode, PUSH", "dasklearn": "gossip"}, "algorithms.gossip_learning()"
    ),
    Row(
        "gossip learning, pull and push-pull",
        {"gossipy": "PULL, PUSH_PULL"},
        'algorithms.gossip_learning(exchange="push_pull")',
    ),
    Row(
        "gossip learning, pass-through",
        {"gossipy": "PassThroughNode"},
        "algorithms.gossip_learning(pass_through=True)",
    ),
    Row(
        "token account gossip, five strategies",
        {"gossipy": "TokenizedGossipSimulator"},
        'algorithms.gossip_learning(tokens=algorithms.token_account(strategy="simple"))',
    ),
    Row(
        "gossip learning of parts with their own ages",
        {"gossipy": "PartitionedTMH"},
        "algorithms.gossip_learning(parts=algorithms.model_partition(num_parts=4))",
    ),
    Row(
        "gossip learning of sampled models",
        {"gossipy": "SamplingTMH"},
        "algorithms.gossip_learning(parts=algorithms.model_sample(fraction=0.25))",
    ),
    Row("PENS", {"gossipy": "PENSNode"}, "algorithms.pens()"),
    Row("Teleportation", {"dasklearn": "teleportation"}, "algorithms.teleportation()"),
    Row("Shatter", {"dasklearn": "shatter"}, "algorithms.shatter()"),
    Row("AD-PSGD", {"dasklearn": "adpsgd"}, "algorithms.ad_psgd()"),
    Row("SGP, push-sum", {"dasklearn": "pushsum"}, "algorithms.stochastic_gradient_push()"),
    Row("CHOCO-SGD", {"decentralizepy": "Choco"}, "algorithms.choco_sgd()"),
    Row("JWINS", {"decentralizepy": "JWINS"}, "algorithms.jwins()"),
    Row("sparse messages, largest", {"decentralizepy": "TopK, PartialModel"}, "networks.top_k()"),
    Row("sparse messages, random", {"decentralizepy": "SubSampling"}, "networks.random_k()"),
    Row(
        "Epidemic Learning",
        {"decentralizepy": "EL-Oracle, EL-Local", "dasklearn": "epidemic"},
        "networks.epidemic()",
    ),
)


def _resolved(package: ModuleType, call: ast.Call) -> str | None:
    """What is wrong with a call: an unknown name or keyword, of the call and of those in its arguments; None if nothing."""
    path = ast.unparse(call.func)
    found: object = package
    for part in path.split("."):
        if not hasattr(found, part):
            return f"{path} is unknown"
        found = getattr(found, part)
    known = inspect.signature(found).parameters  # type: ignore[arg-type]
    for keyword in call.keywords:
        if keyword.arg not in known:
            return f"{path} has no argument {keyword.arg}"
        if isinstance(keyword.value, ast.Call):
            inner = _resolved(package, keyword.value)
            if inner is not None:
                return inner
    return None


def faults(package: ModuleType) -> list[str]:
    """What the rows say of `package` that is not so."""
    said = []
    for row in ROWS:
        if not row.here and not row.note:
            said.append(f"{row.method}: neither a call nor a reason")
        if set(row.there) - set(PEERS):
            said.append(f"{row.method}: unknown peer")
        if row.here:
            tree = ast.parse(row.here, mode="eval").body
            wrong = _resolved(package, tree) if isinstance(tree, ast.Call) else "not a call"
            said += [f"{row.method}: {wrong}"] if wrong else []
    return said


def page(package: ModuleType) -> str:
    """The page as Markdown.  Raises ValueError where a row names what `package` has not."""
    wrong = faults(package)
    if wrong:
        raise ValueError("; ".join(wrong))
    lines = ["| method | " + " | ".join(PEERS) + " | here |", "|---" * (len(PEERS) + 2) + "|"]
    for row in ROWS:
        cells = [row.there.get(peer, "-").replace("_", r"\_") for peer in PEERS]
        name = row.here.split("(")[0]
        target = f"{package.__name__}.{name}"
        shown = f"{{py:obj}}`{row.here} <{target}>`" if row.here else "-"
        lines.append(f"| {row.method} | {' | '.join(cells)} | {shown}{'; ' if row.note else ''}{row.note} |")
    return "\n".join([INTRODUCTION, *lines]) + "\n"
