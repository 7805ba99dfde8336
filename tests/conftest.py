"""The shapes in minibert's signatures are checked at run time in every test."""

from tools import shapes

shapes.install()
