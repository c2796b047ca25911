"""A local web page to try models in: what a checkpoint can do, each as a form."""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.page.abilities import Ability, Field, Search
    from mmonepeace.page.opening import missing_demos, open_models
    from mmonepeace.page.server import Page, serve

__all__ = ["Ability", "Field", "Page", "Search", "missing_demos", "open_models", "serve"]

__getattr__, __dir__ = lazy_names(__name__)
