"""The recipe protocols can be subclassed as users' recipes do."""

from torchtune.recipe_interfaces import EvalRecipeInterface, FTRecipeInterface, OrchestrationRecipeInterface


def test_a_recipe_may_subclass_any_of_them():
    for interface in (EvalRecipeInterface, FTRecipeInterface, OrchestrationRecipeInterface):

        class Recipe(interface):
            def __init__(self, cfg):
                self.cfg = cfg

            def setup(self, cfg):
                return cfg

        assert Recipe(1).setup(2) == 2 and Recipe(1).cfg == 1
