"""A codec's text as (name, options): the language that both ends agree in."""

import ast


def parse(text):
    return built(ast.parse(text, mode="eval").body)


def built(node):
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        arguments = [built(x) for x in node.args]
        return node.func.id, {"": arguments, **{x.arg: built(x.value) for x in node.keywords}}
    if isinstance(node, ast.List | ast.Tuple):
        return [built(x) for x in node.elts]
    return ast.literal_eval(node)
