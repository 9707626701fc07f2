package rules

import (
	"regexp"
	"unicode/utf8"

	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/parser"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Rules in CEL are compiled to functions that look at one message, without the machine that evaluates any such expression. Known is
// what the rules of our .proto files are made of: fields and whether they are set, comparisons with numbers and texts, the logical
// operators, size, matches with a constant pattern, and exists over a list of messages. An expression with anything else is
// not compiled, and then the general validator is asked.

// scope is what the names in an expression stand for.
type scope struct {
	this protoreflect.Value
	item protoreflect.Value // of the list that exists goes through
}

// node is a part of an expression: the one function that is not nil computes its value.
type node struct {
	boolean func(scope) bool
	number  func(scope) int64
	text    func(scope) string
	list    func(scope) protoreflect.List
	message func(scope) protoreflect.Message

	unsigned bool                           // of a number: it is not comparable with one that is not
	of       protoreflect.MessageDescriptor // of a message, or of the items of a list
}

// expression compiles one expression.
type expression struct {
	this node
	// variable is the name of the items that exists goes through, while what is asked of them is compiled.
	variable string
	item     node
}

// ofMessage returns the function that says whether a message keeps a rule, or nil if the rule is not understood.
func ofMessage(desc protoreflect.MessageDescriptor, source string) check {
	return compile(source, node{of: desc, message: func(s scope) protoreflect.Message { return s.this.Message() }})
}

// ofField is ofMessage for the value of a field.
func ofField(desc protoreflect.FieldDescriptor, source string) check {
	this, ok := valueOf(desc, func(s scope) protoreflect.Value { return s.this })
	if !ok {
		return nil
	}
	return compile(source, this)
}

func compile(source string, this node) check {
	p, err := parser.NewParser(parser.Macros(parser.HasMacro))
	if err != nil {
		return nil
	}
	parsed, problems := p.Parse(common.NewTextSource(source))
	if len(problems.GetErrors()) > 0 {
		return nil
	}
	e := expression{this: this}
	rule, ok := e.node(parsed.Expr())
	if !ok || rule.boolean == nil {
		return nil
	}
	return func(v protoreflect.Value) bool { return rule.boolean(scope{this: v}) }
}

// node compiles a part; it returns false if it is not understood.
func (e *expression) node(part ast.Expr) (node, bool) {
	switch part.Kind() {
	case ast.IdentKind:
		switch part.AsIdent() {
		case "this":
			return e.this, true
		case e.variable:
			return e.item, e.variable != ""
		}
	case ast.LiteralKind:
		return literal(part.AsLiteral().Value())
	case ast.SelectKind:
		return e.selected(part.AsSelect())
	case ast.CallKind:
		return e.call(part.AsCall())
	case ast.UnspecifiedExprKind, ast.ComprehensionKind, ast.ListKind, ast.MapKind, ast.StructKind:
	}
	return node{}, false
}

func literal(value any) (node, bool) {
	switch value := value.(type) {
	case int64:
		return node{number: func(scope) int64 { return value }}, true
	case string:
		return node{text: func(scope) string { return value }}, true
	case bool:
		return node{boolean: func(scope) bool { return value }}, true
	}
	return node{}, false
}

// selected is a field of a message, or whether it is set.
func (e *expression) selected(part ast.SelectExpr) (node, bool) {
	operand, ok := e.node(part.Operand())
	if !ok || operand.message == nil {
		return node{}, false
	}
	desc := operand.of.Fields().ByName(protoreflect.Name(part.FieldName()))
	switch {
	case desc == nil:
		return node{}, false
	case part.IsTestOnly():
		return node{boolean: func(s scope) bool { return operand.message(s).Has(desc) }}, true
	}
	return valueOf(desc, func(s scope) protoreflect.Value { return operand.message(s).Get(desc) })
}

// valueOf is the value of a field.
func valueOf(desc protoreflect.FieldDescriptor, get func(scope) protoreflect.Value) (node, bool) {
	switch {
	case desc.IsMap():
		return node{}, false
	case desc.IsList():
		return node{of: desc.Message(), list: func(s scope) protoreflect.List { return get(s).List() }}, true
	}
	switch desc.Kind() { //nolint:exhaustive // others are not in our rules
	case protoreflect.BoolKind:
		return node{boolean: func(s scope) bool { return get(s).Bool() }}, true
	case protoreflect.StringKind:
		return node{text: func(s scope) string { return get(s).String() }}, true
	case protoreflect.EnumKind:
		return node{number: func(s scope) int64 { return int64(get(s).Enum()) }}, true
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return node{number: func(s scope) int64 { return get(s).Int() }}, true
	case protoreflect.Uint32Kind:
		return node{number: func(s scope) int64 { return int64(get(s).Uint()) }, unsigned: true}, true //nolint:gosec // it has 32 bits
	case protoreflect.MessageKind:
		if desc.Message().ParentFile().Package() == "google.protobuf" {
			return node{}, false // to CEL some of these are not messages
		}
		return node{of: desc.Message(), message: func(s scope) protoreflect.Message { return get(s).Message() }}, true
	}
	return node{}, false
}

func (e *expression) call(part ast.CallExpr) (node, bool) {
	if part.FunctionName() == operators.Exists {
		return e.exists(part)
	}
	var operands []node
	all := part.Args()
	if part.IsMemberFunction() {
		all = append([]ast.Expr{part.Target()}, all...)
	}
	for _, operand := range all {
		n, ok := e.node(operand)
		if !ok {
			return node{}, false
		}
		operands = append(operands, n)
	}
	if part.FunctionName() == "matches" && len(all) == 2 && all[1].Kind() == ast.LiteralKind {
		return matches(operands[0], all[1].AsLiteral().Value())
	}
	result := operate(part.FunctionName(), operands)
	return result, result.boolean != nil || result.number != nil
}

// operate returns an empty node for what is not understood.
func operate(name string, of []node) node {
	switch {
	case len(of) == 1 && name == operators.LogicalNot && of[0].boolean != nil:
		return node{boolean: func(s scope) bool { return !of[0].boolean(s) }}
	case len(of) == 1 && name == "size" && of[0].list != nil:
		return node{number: func(s scope) int64 { return int64(of[0].list(s).Len()) }}
	case len(of) == 1 && name == "size" && of[0].text != nil:
		return node{number: func(s scope) int64 { return int64(utf8.RuneCountInString(of[0].text(s))) }}
	case len(of) == 2 && of[0].boolean != nil && of[1].boolean != nil:
		return node{boolean: logical(name, of[0].boolean, of[1].boolean)}
	case len(of) == 2 && of[0].text != nil && of[1].text != nil:
		return node{boolean: compared(name, of[0].text, of[1].text)}
	case len(of) == 2 && of[0].number != nil && of[1].number != nil && of[0].unsigned == of[1].unsigned:
		return node{boolean: compared(name, of[0].number, of[1].number)}
	case len(of) == 3 && name == operators.Conditional && of[0].boolean != nil && of[1].boolean != nil && of[2].boolean != nil:
		return node{boolean: func(s scope) bool {
			if of[0].boolean(s) {
				return of[1].boolean(s)
			}
			return of[2].boolean(s)
		}}
	}
	return node{}
}

func logical(name string, a, b func(scope) bool) func(scope) bool {
	switch name {
	case operators.LogicalAnd:
		return func(s scope) bool { return a(s) && b(s) }
	case operators.LogicalOr:
		return func(s scope) bool { return a(s) || b(s) }
	case operators.Equals:
		return func(s scope) bool { return a(s) == b(s) }
	case operators.NotEquals:
		return func(s scope) bool { return a(s) != b(s) }
	}
	return nil
}

func compared[T string | int64](name string, a, b func(scope) T) func(scope) bool {
	switch name {
	case operators.Equals:
		return func(s scope) bool { return a(s) == b(s) }
	case operators.NotEquals:
		return func(s scope) bool { return a(s) != b(s) }
	case operators.Less:
		return func(s scope) bool { return a(s) < b(s) }
	case operators.LessEquals:
		return func(s scope) bool { return a(s) <= b(s) }
	case operators.Greater:
		return func(s scope) bool { return a(s) > b(s) }
	case operators.GreaterEquals:
		return func(s scope) bool { return a(s) >= b(s) }
	}
	return nil
}

// matches looks for a constant pattern anywhere in a text.
func matches(of node, pattern any) (node, bool) {
	source, ok := pattern.(string)
	if !ok || of.text == nil {
		return node{}, false
	}
	compiled, err := regexp.Compile(source)
	if err != nil {
		return node{}, false
	}
	return node{boolean: func(s scope) bool { return compiled.MatchString(of.text(s)) }}, true
}

// exists asks the same of the messages of a list until one answers yes. There is no exists within another.
func (e *expression) exists(part ast.CallExpr) (node, bool) {
	if !part.IsMemberFunction() || len(part.Args()) != 2 || part.Args()[0].Kind() != ast.IdentKind || e.variable != "" {
		return node{}, false
	}
	among, ok := e.node(part.Target())
	if !ok || among.list == nil || among.of == nil {
		return node{}, false
	}
	e.variable = part.Args()[0].AsIdent()
	e.item = node{of: among.of, message: func(s scope) protoreflect.Message { return s.item.Message() }}
	asked, ok := e.node(part.Args()[1])
	e.variable = ""
	if !ok || asked.boolean == nil {
		return node{}, false
	}
	return node{boolean: func(s scope) bool {
		items := among.list(s)
		for i := range items.Len() {
			s.item = items.Get(i)
			if asked.boolean(s) {
				return true
			}
		}
		return false
	}}, true
}
