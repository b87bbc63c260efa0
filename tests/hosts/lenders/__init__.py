"""One module for each library; a lender is told what to open, and shows what it lends."""

from ..lender import Lender
from . import of_django, of_psycopg, of_sqlalchemy

LENDERS: list[type[Lender]] = [
    *of_psycopg.LENDERS,
    *of_sqlalchemy.LENDERS,
    *of_django.LENDERS,
]
