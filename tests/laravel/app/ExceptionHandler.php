<?php

namespace App;

use Throwable;

class ExceptionHandler extends \Illuminate\Foundation\Exceptions\Handler
{
    public function report(Throwable $e)
    {
        if ($this->shouldReport($e)) {
            error_log($e);
        }
    }

    protected function shouldReturnJson($request, Throwable $e)
    {
        return true;
    }

    public function render($request, Throwable $e)
    {
        return $this->prepareJsonResponse($request, $this->prepareException($e));
    }
}
