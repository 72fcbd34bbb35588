"""`python -m migrations`: bring the database of the settings to the newest version."""

from migrations import upgrade
from models.settings import Settings

if __name__ == "__main__":
    upgrade(Settings().database)
