package rewrite

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// Edit replaces a text that must stand in a file exactly once, for what else a suite needs to be otherwise.
type Edit struct{ File, Old, New string } // File from the root

// Overlay writes copies of the files that hold points, with each call through the runtime, below dir, and returns the file for go build -overlay. The
// runtime is put into each module as internal/failpoint.
func Overlay(root, dir string, processes []Process, points []Point, edits []Edit) (string, error) {
	replace := map[string]string{}
	byFile := map[string][]Point{}
	for _, p := range points {
		byFile[p.file] = append(byFile[p.file], p)
	}
	runtime, err := os.ReadFile(filepath.Join(root, "test", "failpoint", "runtime", "runtime.go"))
	if err != nil {
		return "", err
	}
	var modules []string
	for _, p := range processes {
		modules = append(modules, p.Code...)
		for _, m := range p.Code {
			if err := put(dir, replace, root, filepath.Join(root, m, "internal", "failpoint", "failpoint.go"), runtime); err != nil {
				return "", err
			}
		}
	}
	for file, ps := range byFile {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if text, err = rewriteFile(modules, root, file, text, ps); err != nil {
			return "", err
		}
		if err := put(dir, replace, root, file, text); err != nil {
			return "", err
		}
	}
	if err := edit(root, dir, replace, edits); err != nil {
		return "", err
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, data, 0o600)
}

func put(dir string, replace map[string]string, root, file string, text []byte) error {
	rel, err := filepath.Rel(root, file)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, rel)
	replace[file] = to
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o750), os.WriteFile(to, text, 0o600))
}

func edit(root, dir string, replace map[string]string, edits []Edit) error {
	for _, e := range edits {
		file := filepath.Join(root, e.File)
		from := file
		if to := replace[file]; to != "" {
			from = to
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), e.Old); n != 1 {
			return fmt.Errorf("%s holds %q %d times, not once", e.File, e.Old, n)
		}
		if err := put(dir, replace, root, file, []byte(strings.Replace(string(text), e.Old, e.New, 1))); err != nil {
			return err
		}
	}
	return nil
}

// rewriteFile puts the runtime around each point's call. Nothing moves to another line.
func rewriteFile(modules []string, root, file string, text []byte, points []Point) ([]byte, error) {
	imports := newImports(points[0].pkg, modules, root, file)
	type insert struct {
		at, nest int
		text     string
	}
	var inserts []insert
	for _, p := range points {
		before, after, err := wrap(p, imports)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.ID, err)
		}
		// Of two calls that begin at one place the longer is the outer one; of two that end there, too.
		inserts = append(inserts, insert{p.start, -p.end, before}, insert{p.end, p.end - p.start, after})
	}
	slices.SortStableFunc(inserts, func(a, b insert) int {
		if a.at != b.at {
			return a.at - b.at
		}
		return a.nest - b.nest
	})
	var out strings.Builder
	at := 0
	for _, in := range inserts {
		out.Write(text[at:in.at])
		out.WriteString(in.text)
		at = in.at
	}
	out.Write(text[at:])
	return imports.insert(out.String(), points[0])
}

// wrap is the text before and after a call.
func wrap(p Point, im *imports) (before, after string, err error) {
	var results []types.Type
	switch t := p.pkg.TypesInfo.TypeOf(p.call).(type) {
	case *types.Tuple:
		for i := range t.Len() {
			results = append(results, t.At(i).Type())
		}
	default:
		results = []types.Type{t}
	}
	names := make([]string, len(results))
	decls := make([]string, len(results))
	zeros := make([]string, 0, len(results))
	for i, t := range results {
		names[i] = fmt.Sprintf("lqfpR%d", i)
		decls[i] = names[i] + " " + types.TypeString(t, im.qualify)
		if i < len(results)-1 {
			zeros = append(zeros, "*new("+types.TypeString(t, im.qualify)+")")
		}
	}
	if im.err != nil {
		return "", "", im.err
	}
	last := names[len(names)-1]
	before = fmt.Sprintf("func() (%s) { lqfpShot, lqfpErr := lqfp.Before(%q, %q); if lqfpErr != nil { %s = lqfpErr; return }; %s = ",
		strings.Join(decls, ", "), p.ID, p.Kind, last, strings.Join(names, ", "))
	after = fmt.Sprintf("; if lqfpErr = lqfpShot.After(); lqfpErr != nil { return %s }; return }()", strings.Join(append(zeros, "lqfpErr"), ", "))
	return before, after, nil
}

// imports are those that the rewritten calls need.
type imports struct {
	pkg     *packages.Package
	own     string
	have    map[string]string // path: name in the file
	added   map[string]string
	runtime string
	err     error
}

func newImports(pkg *packages.Package, modules []string, root, file string) *imports {
	rel, _ := filepath.Rel(root, file)
	mod := ""
	for _, m := range modules {
		if strings.HasPrefix(filepath.ToSlash(rel), m+"/") {
			mod = m
		}
	}
	im := &imports{pkg: pkg, own: pkg.PkgPath, have: map[string]string{}, added: map[string]string{}, runtime: module + mod + "/internal/failpoint"}
	return im
}

func (im *imports) qualify(p *types.Package) string {
	if p.Path() == im.own {
		return ""
	}
	if n := im.added[p.Path()]; n != "" {
		return n
	}
	n := fmt.Sprintf("lqfpP%d", len(im.added))
	im.added[p.Path()] = n
	return n
}

// insert adds the imports behind the package clause, on its line.
func (im *imports) insert(text string, p Point) ([]byte, error) {
	for _, f := range p.pkg.Syntax {
		if p.pkg.Fset.Position(f.Pos()).Filename != p.file {
			continue
		}
		at := p.pkg.Fset.Position(f.Name.End()).Offset
		add := fmt.Sprintf("; import lqfp %q", im.runtime)
		for _, path := range slices.Sorted(maps.Keys(im.added)) {
			add += fmt.Sprintf("; import %s %q", im.added[path], path)
		}
		return []byte(text[:at] + add + text[at:]), nil
	}
	return nil, fmt.Errorf("%s: its package clause was not found", p.file)
}
