"""Options of what asks a model: what a stopped job must be repeated with."""

from redpencil.recipes.asking import JudgeRecipe, differences, settings_of


def test_another_question_in_the_same_file_is_another_judgement(tmp_path):
    template = tmp_path / "question.txt"
    recipe = JudgeRecipe(
        a="one",
        b="other",
        out=str(tmp_path / "out"),
        judge_url="http://localhost:1/v1",
        judge_model="m",
        judge_template=str(template),
    )
    template.write_text("Which is better? {prompt} {a} {b}")
    first = settings_of(recipe)
    assert settings_of(recipe) == first
    template.write_text("Which is shorter? {prompt} {a} {b}")
    assert differences(first, settings_of(recipe)).startswith("--judge-template was")
