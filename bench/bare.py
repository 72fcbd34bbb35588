"""What the service is compared with: the least that FastAPI and SQLAlchemy can do with one row.

    BENCH_DATABASE=URL uvicorn bench.bare:app

The row holds the same document as a job's; it is validated as JSON only, stored and answered.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import JSON, String, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from models.base import new_id

URL = os.environ["BENCH_DATABASE"]
engine = create_engine(URL) if URL.startswith("sqlite:") else create_engine(URL, pool_size=5, max_overflow=15)
if URL.startswith("sqlite:"):

    @event.listens_for(engine, "connect")
    def _as_the_service_does(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "bare_item"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)


class ItemIn(BaseModel):
    name: str
    spec: dict[str, Any]


class ItemOut(ItemIn):
    id: str


Base.metadata.create_all(engine)
app = FastAPI()


@app.post("/items", status_code=201)
def create(given: ItemIn) -> ItemOut:
    item = Item(id=new_id("item"), name=given.name, spec=given.spec)
    with Session(engine, expire_on_commit=False) as session, session.begin():
        session.add(item)
    return ItemOut(id=item.id, name=item.name, spec=item.spec)


@app.get("/items/{item_id}")
def read(item_id: str) -> ItemOut:
    with Session(engine) as session:
        item = session.get(Item, item_id)
        if item is None:
            raise HTTPException(404)
        return ItemOut(id=item.id, name=item.name, spec=item.spec)
