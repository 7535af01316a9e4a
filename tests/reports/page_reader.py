"""Reading HTML pages as a browser does, with the parser of the standard library."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """Elements and texts of a page.

    Attributes:
        tags: names of all elements.
        attributes: element -> names and values of the attributes of each.
        addresses: values of attributes that a browser would fetch.
        tables: class of the table -> rows of texts.
        items: texts of the list items, and their classes.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.tables, self.items, self.unclosed = [], [], {}, [], []
        self.text, self.attributes = "", {}
        self._row = None
        self.feed(text)
        assert not self.unclosed

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.attributes.setdefault(tag, []).append(values)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.unclosed.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(values.get("class"), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "li":
            self.items.append([values.get("class"), ""])

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.unclosed):
            self._rows[-1][-1] += data
        elif "li" in self.unclosed:
            self.items[-1][1] += data
