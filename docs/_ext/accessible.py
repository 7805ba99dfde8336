"""What Sphinx and Furo write that a screen reader stumbles over, put right in the finished page."""

import re

SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
PARAMETERS = [("<dl>", '<span class="sig-list">'), ("</dl>", "</span>"), ("<dd>", "<span>"), ("</dd>", "</span>")]
EMPTY_HEADER = re.compile(r"<th([^>]*)>((?:<p></p>)?)</th>")


def accessible(html: str) -> str:
    """The body of a page, with names on its landmarks, and no list, table head or heading that is none."""
    html = html.replace('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">')
    html = html.replace('<aside class="toc-drawer', '<aside aria-label="On this page" class="toc-drawer')
    html = html.replace('<p class="caption" role="heading">', '<p class="caption">')
    html = EMPTY_HEADER.sub(r"<td\1>\2</td>", html)
    return SIGNATURE.sub(without_lists, html)


def without_lists(signature: re.Match) -> str:
    """Sphinx makes a list of definitions without terms of the parameters in a signature; spans look the same."""
    html = signature[0]
    for old, new in PARAMETERS:
        html = html.replace(old, new)
    return html


def add_function(app, pagename, templatename, context, doctree):
    """docs/_templates/page.html calls it."""
    context["accessible"] = accessible


def setup(app):
    app.connect("html-page-context", add_function)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
