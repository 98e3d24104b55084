package yamlfile

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
)

// Suggest is "; did you mean NAME?" with the closest of the names, if one is close.
func Suggest(name string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	closest := slices.MinFunc(names, func(a, b string) int { return cmp.Compare(distance(name, a), distance(name, b)) })
	if distance(name, closest) > 1+len(closest)/5 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", closest)
}

// distance is how many letters have to be added, removed or changed to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// keysOf are the keys of a struct and of all that is in it.
func keysOf(t reflect.Type) (keys []string) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return keysOf(t.Elem())
	case reflect.Struct:
		for field := range t.Fields() {
			if key := field.Tag.Get("yaml"); key != "" && key != "-" {
				keys = append(append(keys, key), keysOf(field.Type)...)
			}
		}
	}
	return keys
}
