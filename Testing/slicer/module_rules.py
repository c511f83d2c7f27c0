"""What PythonQt or the extensions index refuses in module code, found by reading it: the test host is more lenient.

`breaches(source, slicer)` gives the broken rules as "line 3: ..." sentences.
"""

import ast
import inspect
import re
import sys

ALLOWED_IMPORTS = {*sys.stdlib_module_names, "slicer", "qt", "ctk", "vtk", "numpy", "simcvd", "SimCVDLib"}
QT_MODULES = ("qt", "ctk")
GONE_IN_QT6 = {"QTextCodec", "QDesktopWidget", "QRegExp", "stateChanged", "setMargin"}
PROPERTIES = {
    *("text", "checked", "enabled", "visible", "value", "minimum", "maximum", "currentIndex", "currentText", "count"),
    *("plainText", "toolTip", "collapsed", "currentPath", "directory", "windowTitle", "placeholderText"),
}
KEPT = {"qt.QTimer", "qt.QProcess"}


def breaches(source, slicer):
    """Sentences on what is wrong in a module file; `slicer` is the module, asked for the names it has."""
    reader = Reader(ast.parse(source), slicer)
    return [f"line {line}: {sentence}" for line, sentence in sorted(reader.found)]


def importsAtFileScope(tree):
    """[(line, full module name)] of all imports that run when the file is imported."""
    found, stack = [], list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "." * node.level + (node.module or "")))
            if node.level == 0:
                # a name may be a module of its own
                found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.If) and dotted(node.test).split(".")[-1] == "TYPE_CHECKING":
            stack += node.orelse  # the rest is never run
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            stack += ast.iter_child_nodes(node)
    return found


def dotted(node):
    """'self.ui.button' of such an expression; '' of any other."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def isQt(name):
    """Whether a dotted name is one of Qt, CTK or the MRML widgets."""
    return name.split(".")[0] in QT_MODULES or re.match(r"slicer\.(qMRML|qSlicer)", name) is not None


class Reader(ast.NodeVisitor):
    def __init__(self, tree, slicer):
        self.found, self.slicer = [], slicer
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
        made = [node for node in calls if isQt(dotted(node.value.func))]
        self.qtObjects = {dotted(target) for node in made for target in node.targets} - {""}
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        self.functions = {node.name: node for node in functions}
        self.checkImports(tree)
        for function in functions:
            self.checkKept(function)
        self.visit(tree)

    def refuse(self, node, sentence):
        self.found.append((getattr(node, "lineno", node), sentence))

    # ---------------------------------------------------------------- imports and names

    def checkImports(self, tree):
        roots = {(line, name.split(".")[0]) for line, name in importsAtFileScope(tree) if not name.startswith(".")}
        for line, root in roots:
            if root not in ALLOWED_IMPORTS:
                self.refuse(line, f"{root} must not be imported when the file is")
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
                if node.module == "slicer":
                    self.checkSlicerNames(node, [alias.name for alias in node.names])
            if any(name.split(".")[0] == "torch" for name in names):
                self.refuse(node, "the application must never import torch")

    def checkSlicerNames(self, node, names):
        for name in names:
            if not hasattr(self.slicer, name):
                self.refuse(node, f"slicer.{name} does not exist in the application")

    def visit_Attribute(self, node):
        name = dotted(node)
        if re.fullmatch(r"slicer\.\w+", name):
            self.checkSlicerNames(node, [node.attr])
        if re.search(r"Storage(Node)?$", node.attr):
            self.refuse(node, "a storage node made by hand may crash: leave files to slicer.util")
        if node.attr in GONE_IN_QT6:
            self.refuse(node, f"{node.attr} is gone in Qt 6")
        self.generic_visit(node)

    def visit_Assign(self, node):
        for target in node.targets:
            if re.fullmatch(r"self\.ui\.\w+", dotted(target)):
                self.refuse(node, "self.ui must hold nothing but the widgets of the .ui file")
        self.generic_visit(node)

    def checkKept(self, function):
        outlive = [node for node in ast.walk(function) if isinstance(node, ast.Return) or isAttribute(node)]
        kept = {dotted(node.value) for node in outlive}
        for node in ast.walk(function):
            if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
                continue
            made, target = dotted(node.value.func), dotted(node.targets[0])
            if made in KEPT and not node.value.args and "." not in target and target not in kept:
                self.refuse(node, f"{target} dies with the function: give the {made} a parent or keep it in self")

    # ---------------------------------------------------------------- calls

    def visit_Call(self, node):
        name = dotted(node.func)
        for check in (self.checkQtCall, self.checkConnect, self.checkFiles, self.checkTranslation, self.checkClass):
            check(node, name)
        self.generic_visit(node)

    def checkQtCall(self, node, name):
        owner, _, method = name.rpartition(".")
        ofUi = re.fullmatch(r"(self\.)?ui\.\w+", owner) is not None
        if node.keywords and (isQt(name) or ofUi or owner in self.qtObjects):
            self.refuse(node, f"{name} takes no keyword arguments in PythonQt")
        if method in PROPERTIES and (ofUi or owner in self.qtObjects):
            self.refuse(node, f"{name} is a property: no brackets")
        if name == "qt.QImage" and len(node.args) > 3:
            self.refuse(node, "qt.QImage takes no bytes in PythonQt: write a PNG or use loadFromData")

    def checkConnect(self, node, name):
        if not (isinstance(node.func, ast.Attribute) and node.func.attr == "connect" and node.args):
            return
        signal = node.func.value
        if isinstance(signal, ast.Subscript):
            self.refuse(node, "PythonQt has no signal[type]: name the signature in connect()")
        if isinstance(signal, ast.Attribute) and signal.attr == "finished":
            self.refuse(node, "finished.connect gives the exit code alone in Qt 5: name the signature in connect()")
        slot = node.args[-1]
        function = slot if isinstance(slot, ast.Lambda) else self.functions.get(dotted(slot).split(".")[-1])
        if function is not None and any(not name.startswith("_") for name in optionalArguments(function)):
            self.refuse(node, "a slot's optional argument is filled with what the signal brings: make it keyword-only")

    def checkFiles(self, node, name):
        function = getattr(self.slicer.util, name.removeprefix("slicer.util."), None)
        if not name.startswith("slicer.util.") or not inspect.isfunction(function):
            return
        if "properties" not in inspect.signature(function).parameters:
            return
        given = next((keyword.value for keyword in node.keywords if keyword.arg == "properties"), None)
        if not isinstance(given, (ast.Dict, ast.DictComp)):
            self.refuse(node, f"{name} remembers its properties: always give it properties={{...}}")

    def checkTranslation(self, node, name):
        if name not in ("_", "translate"):
            return
        if len(node.args) != 1 + (name == "translate") or node.keywords or not all(map(isText, node.args)):
            self.refuse(node, f"{name}() takes literal text alone, so that it can be translated")
        elif re.search(r"(?<!\{)\{\d*\}", node.args[-1].value):
            self.refuse(node, "placeholders in translated text must have names")

    def checkClass(self, node, name):
        if name == "isinstance" and len(node.args) == 2:
            classes = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            if any(isQt(dotted(cls)) for cls in classes):
                self.refuse(node, "isinstance is blind to Qt's base classes in PythonQt: use inherits() or className()")


def isAttribute(node):
    return isinstance(node, ast.Assign) and any("." in dotted(target) for target in node.targets)


def isText(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def optionalArguments(function):
    arguments = [*function.args.posonlyargs, *function.args.args]
    return [each.arg for each in arguments[len(arguments) - len(function.args.defaults) :]]
