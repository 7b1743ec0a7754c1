"""Mutants of a kernel: its text with one barrier or one bounds guard taken out or weakened.

A kernel's tests should notice every one of them: check mode by a CuemuError, or a comparison by a wrong number.

    for mutant, noticed in survey(text, run_and_compare):
        assert noticed, mutant

- Barriers: each `__syncthreads();`, `__syncwarp(...);` and `cp_async_wait<...>();` is removed.
- Guards: each comparison `<`, `<=`, `>`, `>=` in the condition of an `if` or of `... ? ... : ...`, or in the value of a
  bool or of a function, is removed (it lets everything in) and weakened (it lets one more in).  `i < n`, `i <= n` and
  `i >= 0` let in where they are true; `i >= n`, `i > n` and `i < 0` keep out.  Comparisons with a number other than 0
  are not guards of a size (write v > 0.f where 0 is one), and the conditions of loops are left alone.  Operators must
  have spaces around them, as in this project's kernels.

`switched` puts all of a text's mutants into one, to be compiled once.

A guard that changes nothing but the speed says so: `// guard: performance only`, on its line or on the line above.
"""

import re
from dataclasses import dataclass

from .errors import CuemuError
from .source import closing, without_comments

SWITCH = "cuemu_mutant"
# Read in a function that is not checked: kernels' own reads are, and this is no argument of theirs.
_SWITCH = f"""extern "C" __attribute__((visibility("default"))) int {SWITCH};
int {SWITCH} = 0;
__attribute__((noinline, no_sanitize("thread"))) static int cuemu_mutant_now() {{ return {SWITCH}; }}
"""
_MARK = re.compile(r"//\s*guard: performance only")
_BARRIER = re.compile(r"\b(?:__syncthreads|__syncwarp|cp_async_wait\s*<[^;<>]*>)\s*\([^;]*?\)\s*;")
_COMPARISON = re.compile(r"(?<=\s)(<|<=|>|>=)(?=\s)")
_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|[0-9][0-9.eE]*)[uUlLfF]*")


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    description: str
    text: str
    number: int = 0  # of a switched text: which mutant it is when its variable SWITCH is this

    def __str__(self):
        return f"{self.file}:{self.line}: {self.description}"


def mutants(text, *, barriers=True, guards=True, file="kernel.cu"):
    """Every Mutant of a text, in the order of lines.  A flattened text may contain several files (#line directives)."""
    for start, end, replacement, description in _changes(text, barriers, guards):
        name, line = _place(text, start, file)
        yield Mutant(name, line, description, text[:start] + replacement + text[end:])


def switched(text, file="kernel.cu"):
    """The same Mutants, but of one text: compiled, its int SWITCH chooses among them; 0 is the text as it was."""
    pieces, places, at = [_SWITCH + f'#line 1 "{file}"\n'], [], 0
    for number, (start, end, replacement, description) in enumerate(_changes(text), 1):
        places.append((*_place(text, start, file), description, number))
        if description.startswith("weakened"):  # of the guard that was removed just before
            head, shown = pieces.pop()
            pieces.append((f"{head} cuemu_mutant_now() == {number} ? ({replacement}) :", shown))
            continue
        if start < at:
            raise ValueError(f"a guard within a guard: {description}")
        pieces.append(text[at:start])
        kept, at = text[start:end], end
        if replacement == "{}":
            pieces.append((f"{{ if (cuemu_mutant_now() != {number})", kept + " }"))
        else:
            pieces.append((f"(cuemu_mutant_now() == {number} ? ({replacement}) :", f" ({kept}))"))
    whole = "".join(piece if isinstance(piece, str) else " ".join(piece) for piece in [*pieces, text[at:]])
    return [Mutant(*place[:3], whole, place[3]) for place in places]


def _changes(text, barriers=True, guards=True):
    """[(start, end, what stands there in the mutant, description)] in order."""
    code = _without_directives(_without_gpu_only(without_comments(text)))
    marked = _marked_lines(text)
    changes = []
    if barriers:
        changes += list(_without_barriers(code))
    if guards:
        changes += [change for change in _weaker_guards(code) if text.count("\n", 0, change[0]) not in marked]
    return sorted(changes, key=lambda change: (change[:2], change[3]))


def survey(text, run, **selection):
    """[(mutant, what noticed it), ...]: run(text) compiles and runs the mutated kernel in check mode and compares.

    It was noticed by what run raised: a CuemuError, or an AssertionError from the comparison.  None: not noticed.
    A mutant that does not compile says nothing and is an error.
    """
    found = []
    for mutant in mutants(text, **selection):
        try:
            run(mutant.text)
        except (CuemuError, AssertionError) as error:
            if getattr(error, "kind", "") in ("compile", "source"):
                raise
            found.append((mutant, (str(error).strip() or type(error).__name__).splitlines()[0]))
        else:
            found.append((mutant, None))
    return found


# ---- where the mutants are ------------------------------------------------------------------------------------------


def _place(text, position, file):
    """The file and line of a position, going by the #line directives before it."""
    line = 1
    for ended in text[:position].split("\n")[:-1]:
        directive = re.match(r'\s*#\s*line\s+(\d+)\s+"([^"]*)"', ended)
        file, line = (directive[2], int(directive[1])) if directive else (file, line + 1)
    return file, line


def _marked_lines(text):
    """The numbers, from 0, of lines with a mark, and of those below a mark that has a line to itself."""
    marked = set()
    for number, line in enumerate(text.split("\n")):
        if _MARK.search(line):
            marked.add(number + (line.strip().startswith("//")))
    return marked


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


def _without_directives(code):
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda match: _blank(match[0]), code, flags=re.M)


def _without_gpu_only(code):
    """Blanks what stands under #ifndef __CUEMU__, which is not compiled here."""
    lines, stack = code.split("\n"), []
    for i, line in enumerate(lines):
        word = re.match(r"\s*#\s*(ifndef|ifdef|if|else|elif|endif)\b\s*(.*)", line)
        if word and word[1] in ("if", "ifdef", "ifndef"):
            condition = (word[1] + " " + word[2]).replace("(", " ").replace(")", " ").split()
            skipped = condition in (["ifndef", "__CUEMU__"], ["if", "!defined", "__CUEMU__"])
            stack.append(skipped)
        elif word and word[1] in ("else", "elif") and stack:
            stack[-1] = False
        elif word and word[1] == "endif" and stack:
            stack.pop()
        elif any(stack):
            lines[i] = _blank(line)
    return "\n".join(lines)


def _without_barriers(code):
    for match in _BARRIER.finditer(code):
        yield match.start(), match.end(), "{}", f"removed {match[0].rstrip(';')}"


# ---- guards ---------------------------------------------------------------------------------------------------------


def _weaker_guards(code):
    for match in _COMPARISON.finditer(code):
        start, end = _operand_start(code, match.start()), _operand_end(code, match.end())
        start = re.compile(r"\s*(?:return\b\s*)?").match(code, start).end()
        end = start + len(code[start:end].rstrip())
        left, right = code[start : match.start()].strip(), code[match.end() : end].strip()
        if not _is_condition(code, start, end) or _not_a_size(left) or _not_a_size(right):
            continue
        operator, zero = match[1], right == "0"
        lets_in = operator in ((">", ">=") if zero else ("<", "<="))
        weaker = {
            "<": f"{left} < -1" if zero else f"{left} <= {right}",
            "<=": f"{left} <= -1" if zero else f"{left} <= {right} + 1",
            ">": f"{left} >= 0" if zero else f"{left} > {right} + 1",
            ">=": f"{left} >= -1" if zero else f"{left} > {right}",
        }[operator]
        shown = " ".join(code[start:end].split())
        removed = f"(({shown}) || true)" if lets_in else f"(({shown}) && false)"  # with its side effects, if any
        yield start, end, removed, f"removed {shown}"
        yield start, end, weaker, f"weakened {shown} to {weaker}"


def _not_a_size(operand):
    return not operand or (operand != "0" and _NUMBER.fullmatch(operand) is not None)


def _operand_start(code, at):
    """Where the operand that ends at `at` begins: after a bracket, a logical operator, a comma, an assignment ..."""
    depth, i = 0, at - 1
    while i >= 0:
        c = code[i]
        if c in ")]}":
            depth += 1
        elif c in "([{":
            if not depth:
                return i + 1
            depth -= 1
        elif not depth and (c in ",;?:!" or code[i - 1 : i + 1] in ("&&", "||")):
            return i + 1
        elif not depth and c == "=" and code[i - 1] not in "=!<>" and code[i + 1] != "=":
            return i + 1
        i -= 1
    return 0


def _operand_end(code, at):
    depth, i = 0, at
    while i < len(code):
        c = code[i]
        if c in "([{":
            depth += 1
        elif c in ")]}":
            if not depth:
                return i
            depth -= 1
        elif not depth and (c in ",;?:" or code[i : i + 2] in ("&&", "||")):
            return i
        i += 1
    return len(code)


def _is_condition(code, start, end):
    """Whether a comparison there is (part of) the condition of an if or ?:, or of a bool's or a function's value."""
    while True:
        bracket = _enclosing_bracket(code, start)
        statement = code[max(bracket, max(code.rfind(c, 0, start) for c in ";{}")) + 1 : start]
        if _leads_to_question(code, end) or re.search(r"\bbool\b[^=;]*=|\breturn\b", statement):
            return True
        if bracket < 0 or code[bracket] != "(":
            return False
        before = code[:bracket].rstrip()
        if re.search(r"\bif$", before):
            return True
        if re.search(r"\b(?:for|while|static_assert|constexpr)$", before):
            return False
        start, end = bracket, closing(code, bracket) + 1


def _enclosing_bracket(code, at):
    depth = 0
    for i in range(at - 1, -1, -1):
        if code[i] in ")]}":
            depth += 1
        elif code[i] in "([{":
            if not depth:
                return i
            depth -= 1
    return -1


def _leads_to_question(code, end):
    """Whether a `?` follows the logical expression that goes on at `end`."""
    while True:
        rest = code[end:].lstrip()
        if rest[:1] == "?":
            return True
        if rest[:2] not in ("&&", "||"):
            return False
        end = _operand_end(code, end + len(code[end:]) - len(rest) + 2)
