package agent

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opspawn/opscore/bus/event"
)

// encode turns a value of the user into JSON. The rules are those of encoding/json, which the tags of user types are
// written for.
func encode(v any) (event.Raw, error) {
	if v == nil {
		return nil, nil
	}
	b, err := json.Marshal(v)
	return event.Raw(b), err
}

// encodeObject is encode for members of the wire that must be objects within event.MaxDetails.
func encodeObject(v any) (event.Raw, error) {
	b, err := encode(v)
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0 || b.Kind() == 'n':
		return nil, nil
	case b.Kind() != '{':
		return nil, errors.New("must encode to a JSON object")
	case len(b) > event.MaxDetails:
		return nil, fmt.Errorf("%d bytes of JSON, at most %d are allowed", len(b), event.MaxDetails)
	}
	return b, nil
}
