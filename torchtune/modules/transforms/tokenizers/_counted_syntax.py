"""The syntax tree of a chat template, rewritten so that what it does again and again, and what it makes, is counted.

What counts are filters that the sandbox has: it makes a call of anything else twenty times as slow.
"""

from functools import reduce

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

STEP, SUM, TEXTS, REMAINDER, LIST = "a step", "a sum", "a text", "a rest", "a list"  # names that no template can write
_FEW = 10  # terms of a sum
_REPEATED = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


def counted(tree: nodes.Template) -> nodes.Template:
    """The tree, with a step wherever something can be done again and again, and a look at what may grow."""
    tree = _Judged().visit(tree)
    for node in list(tree.find_all(_REPEATED)):
        step = _filter(STEP, node, [nodes.EnvironmentAttribute("steps_left")])  # a constant would be folded
        if isinstance(node, nodes.For) and node.test is not None:  # it sees more items than the body does
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        else:
            node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
    return tree


class _Judged(NodeTransformer):
    """Puts filters in the place of operators that make texts and lists larger. What stands by itself between ``{{`` and
    ``}}`` is as it was where it is a sum of a few: what is written is counted as a whole.
    """

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        node.nodes = [self._short_sum(each) or self.visit(each) for each in node.nodes]
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Filter:
        return _filter(SUM, node, [self.visit(term) for term in _terms(node)])

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        return _filter(TEXTS, node, [self.visit(each) for each in node.nodes])

    def visit_Mod(self, node: nodes.Mod) -> nodes.Filter:
        return _filter(REMAINDER, node, [self.visit(node.left), self.visit(node.right)])

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._weighed(self.generic_visit(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._weighed(self.generic_visit(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return node if node.ctx == "store" else self._weighed(self.generic_visit(node))

    def _short_sum(self, node: nodes.Node) -> nodes.Node | None:
        if not isinstance(node, nodes.Add) or len(terms := _terms(node)) > _FEW:
            return None
        return reduce(lambda left, right: nodes.Add(left, right, lineno=node.lineno), map(self.visit, terms))

    def _weighed(self, node: nodes.Node) -> nodes.Node:
        try:
            node.as_const()
        except nodes.Impossible:
            return _filter(LIST, node, [node])
        return node


def _filter(name: str, node: nodes.Node, values: list[nodes.Expr]) -> nodes.Filter:
    """A call of one of the filters above, in the place of a node."""
    first, *others = values
    return nodes.Filter(first, name, others, [], None, None, lineno=node.lineno)


def _terms(node: nodes.Expr) -> list[nodes.Expr]:
    """Those of a sum, from left to right."""
    terms = []
    while isinstance(node, nodes.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]
