"""One module for each library; a lender is told what to open, and shows what it lends."""

from ..lender import Lender
from . import of_asyncpg, of_django, of_psycopg, of_psycopg2, of_sqlalchemy

LENDERS: list[type[Lender]] = [
    *of_psycopg.LENDERS,
    *of_psycopg2.LENDERS,
    *of_asyncpg.LENDERS,
    *of_sqlalchemy.LENDERS,
    *of_django.LENDERS,
]
