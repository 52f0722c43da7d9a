package rewrite

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
	"golang.org/x/tools/go/types/typeutil"
)

const module = "github.com/limiquantix/limiquantix/"

// Kind is what a point's call does.
type Kind string

// The kinds of points.
const (
	Commit  Kind = "commit"   // Store.Commit itself
	UseCase Kind = "use case" // a call of a function that commits for several callers
	Driver  Kind = "driver"   // a driver call, the opening of a stream, or the reply to one
	Write   Kind = "write"    // something that lasts on disk
	Program Kind = "program"  // a run of another program
)

// Point is a call that can be made to fail.
type Point struct {
	ID   string
	Kind Kind

	file       string // absolute
	start, end int    // of the call expression, in bytes
	call       *ast.CallExpr
	pkg        *packages.Package
}

// Process is a binary of the product and where its own code lies.
type Process struct {
	Name string   // "controller"
	Main string   // its main package, from the root
	Code []string // folders, from the root
	// Programs says that runs of other programs are points, too.
	Programs bool
}

// Processes are what gets failpoints. The host side of sdk runs inside the agent.
var Processes = []Process{
	{Name: "controller", Main: "./controller/cmd/limiquantix-controller", Code: []string{"controller"}},
	{Name: "agent", Main: "./agent/cmd/limiquantix-agent", Code: []string{"agent", "sdk"}},
}

// Plugins are those whose backend is what they do themselves: files, and programs that they run.
var Plugins = []Process{
	{Name: "local", Main: "./plugins/local/cmd/limiquantix-plugin-local", Code: []string{"plugins/kit", "plugins/local"}, Programs: true},
}

// Find lists the points of processes, in order of their ids.
func Find(root string, processes []Process) ([]Point, error) {
	f := &finder{root: root, seams: map[*types.Func]bool{}, programs: slices.ContainsFunc(processes, func(p Process) bool { return p.Programs })}
	for _, p := range processes {
		if err := f.load(p); err != nil {
			return nil, err
		}
	}
	f.eachCall(f.basic)
	for { // a function that commits for several callers passes its point on to them
		before := len(f.seams)
		f.findSeams()
		if len(f.seams) == before {
			break
		}
		f.points = slices.DeleteFunc(f.points, func(p Point) bool { return p.Kind == UseCase })
		f.eachCall(f.useCases)
	}
	f.name()
	if len(f.points) == 0 {
		return nil, errors.New("no point was found")
	}
	return f.points, nil
}

type finder struct {
	root     string
	programs bool
	pkgs     []*packages.Package
	points   []Point
	seams    map[*types.Func]bool
}

// load reads the process's own packages: those that its binary is linked from.
func (f *finder) load(p Process) error {
	cfg := &packages.Config{
		Dir:  f.root,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps | packages.NeedModule,
	}
	list, err := packages.Load(cfg, p.Main)
	if err != nil {
		return fmt.Errorf("load %s: %w", p.Main, err)
	}
	var own []string
	packages.Visit(list, nil, func(pkg *packages.Package) {
		for _, dir := range p.Code {
			if strings.HasPrefix(pkg.PkgPath, module+dir+"/") {
				own = append(own, pkg.PkgPath)
			}
		}
	})
	cfg.Mode = packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo |
		packages.NeedImports | packages.NeedExportFile
	if list, err = packages.Load(cfg, own...); err != nil {
		return fmt.Errorf("load %s: %w", p.Name, err)
	}
	for _, pkg := range list {
		for _, e := range pkg.Errors {
			return fmt.Errorf("load %s: %w", pkg.PkgPath, e)
		}
	}
	f.pkgs = append(f.pkgs, list...)
	return nil
}

// site is a call and where it stands.
type site struct {
	pkg  *packages.Package
	file *ast.File
	call *ast.CallExpr
	fn   *types.Func // callee; nil = not known before it runs
	in   *types.Func // the function it stands in; nil = a variable's initial value
}

func (f *finder) eachCall(do func(site)) {
	for _, pkg := range f.pkgs {
		for _, file := range pkg.Syntax {
			for _, decl := range file.Decls {
				var in *types.Func
				if fd, ok := decl.(*ast.FuncDecl); ok {
					in, _ = pkg.TypesInfo.Defs[fd.Name].(*types.Func)
				}
				ast.Inspect(decl, func(n ast.Node) bool {
					if call, ok := n.(*ast.CallExpr); ok {
						fn, _ := typeutil.Callee(pkg.TypesInfo, call).(*types.Func)
						do(site{pkg, file, call, fn, in})
					}
					return true
				})
			}
		}
	}
}

// basic takes the calls that are points by what they call.
func (f *finder) basic(s site) {
	if s.fn == nil {
		return
	}
	switch {
	case isCommit(s.fn):
		f.add(s, Commit)
	case isDriver(s.fn):
		f.add(s, Driver)
	case isWrite(s.pkg.TypesInfo, s.call, s.fn):
		f.add(s, Write)
	case f.programs && isProgram(s.fn):
		f.add(s, Program)
	}
}

func (f *finder) useCases(s site) {
	if s.fn != nil && f.seams[origin(s.fn)] {
		f.add(s, UseCase)
	}
}

// findSeams takes every function that holds a point of a commit and is called from more than one place.
func (f *finder) findSeams() {
	commits, calls := map[*types.Func]bool{}, map[*types.Func]int{}
	f.eachCall(func(s site) {
		if s.fn == nil {
			return
		}
		calls[origin(s.fn)]++
		if s.in != nil && (isCommit(s.fn) || f.seams[origin(s.fn)]) {
			commits[origin(s.in)] = true
		}
	})
	for fn := range commits {
		// What a store does beneath its own methods, as to elect, is no use case: there, a reply cannot be lost.
		if calls[fn] > 1 && endsWithError(fn) && !isCommit(fn) && !strings.HasPrefix(fn.Pkg().Path(), module+"controller/internal/store/") {
			f.seams[fn] = true
		}
	}
}

func origin(fn *types.Func) *types.Func { return fn.Origin() }

func (f *finder) add(s site, kind Kind) {
	if !endsWithError(s.fn) {
		return
	}
	pos := s.pkg.Fset.Position(s.call.Pos())
	f.points = append(f.points, Point{
		Kind: kind, file: pos.Filename, start: pos.Offset, end: s.pkg.Fset.Position(s.call.End()).Offset, call: s.call, pkg: s.pkg,
		ID: fmt.Sprintf("%s:%s#%%d:%s", f.relative(pos), holder(s.in), s.fn.Name()),
	})
}

func (f *finder) relative(pos token.Position) string {
	rel, err := filepath.Rel(f.root, pos.Filename)
	if err != nil {
		return pos.Filename
	}
	return filepath.ToSlash(rel)
}

// holder is the function that a call stands in: "create", "vmRun.create".
func holder(fn *types.Func) string {
	if fn == nil {
		return "var"
	}
	recv := fn.Signature().Recv()
	if recv == nil {
		return fn.Name()
	}
	t := recv.Type()
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := t.(*types.Named); ok {
		return n.Obj().Name() + "." + fn.Name()
	}
	return fn.Name()
}

// name counts the points of each function.
func (f *finder) name() {
	slices.SortFunc(f.points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end))
	})
	seen := map[string]int{}
	for i := range f.points {
		where, _, _ := strings.Cut(f.points[i].ID, "#")
		seen[where]++
		f.points[i].ID = fmt.Sprintf(f.points[i].ID, seen[where])
	}
	slices.SortFunc(f.points, func(a, b Point) int { return cmp.Compare(a.ID, b.ID) })
}

func endsWithError(fn *types.Func) bool {
	r := fn.Signature().Results()
	return r.Len() > 0 && types.Identical(r.At(r.Len()-1).Type(), types.Universe.Lookup("error").Type())
}
