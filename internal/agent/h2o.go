package agent

import "github.com/sessapi/sessapi/internal/keys"

// h2o is H2O with a ticket-store file. H2O rereads it every 10 seconds.
var h2o = kind{format: keys.H2O}
